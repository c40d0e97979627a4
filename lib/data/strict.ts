// What a user may ask of the functions below: every option is known and of its kind, or refused. The functions behind them hand
// their options on to one another, with more than each of them reads.
import { z } from "zod";
import { checkOptions, optionSchema, optionTypes } from "../options.ts";
import { prepareCorpus as prepare, type CorpusOptions, type HeldOutTexts, type PreparedCorpus } from "./corpus.ts";
import { documentRules, readDocuments as read, type DocumentOptions, type TextDocument } from "./documents.ts";
import { openDataset as open, type DatasetOptions } from "./open-dataset.ts";
import type { Dataset } from "./dataset.ts";
import type { Tokenizer } from "./tokenizer.ts";

const { call, signal, text } = optionTypes;
/** The function behind has a sentence of its own for what is out of range. */
const checkedThere = z.unknown().optional();
const division = z.enum(["content", "order"]).optional();
const keep = z.custom<HeldOutTexts>((value) => (value as HeldOutTexts | null)?.hashes instanceof Set, "expected what an earlier preparation held out").optional();
const isTokenizer = (value: unknown): boolean => typeof (value as Tokenizer | null)?.encode === "function";
const tokenizer = z.custom<Tokenizer>(isTokenizer, "expected a tokenizer, as openTokenizer gives it");

const documentShape = {
  documents: z.enum(documentRules).optional(), field: text.min(1).optional(), skipEmpty: z.boolean().optional(),
};
const documentSchema = optionSchema<DocumentOptions>({ ...documentShape, documents: checkedThere });
const corpusSchema = optionSchema<CorpusOptions>({
  ...documentShape, inputs: z.union([text, z.array(text)], "expected a path or paths"), tokenizer, out: text.min(1),
  heldOut: checkedThere, seed: checkedThere, division, keep, tokenizeThreads: checkedThere, onProgress: call.optional(), signal: signal.optional(),
});
const datasetSchema = optionSchema<DatasetOptions>({
  ...documentShape, tokenizer, cache: text.min(1).optional(), heldOut: z.number().min(0).lt(1).optional(),
  seed: optionTypes.seed.optional(), division, keep, tokenizeThreads: checkedThere, onProgress: call.optional(), signal: signal.optional(),
});

/** {@inheritDoc open} */
export async function openDataset(spec: string, options: DatasetOptions): Promise<Dataset> {
  checkOptions(datasetSchema, options, "openDataset");
  return open(spec, options);
}

/** {@inheritDoc prepare} */
export async function prepareCorpus(options: CorpusOptions): Promise<PreparedCorpus> {
  checkOptions(corpusSchema, options, "prepareCorpus");
  return prepare(options);
}

/** {@inheritDoc read} */
export async function* readDocuments(inputs: string | readonly string[], options: DocumentOptions = {}): AsyncGenerator<TextDocument, void, void> {
  checkOptions(documentSchema, options, "readDocuments");
  yield* read(inputs, options);
}
