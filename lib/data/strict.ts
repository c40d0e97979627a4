// What a user may ask of the functions below: every option is known and of its kind, or refused. The functions behind
// them hand their options on to one another, with more than each of them reads.
import { z } from "zod";
import { checkOptions, optionSchema, optionTypes } from "../options.ts";
import { prepareCorpus as prepare, type CorpusOptions, type HeldOutTexts, type PreparedCorpus } from "./corpus.ts";
import { documentRules, readDocuments as read, type DocumentOptions, type TextDocument } from "./documents.ts";
import { openDataset as open, type DatasetOptions } from "./open-dataset.ts";
import type { Dataset } from "./dataset.ts";
import type { Tokenizer } from "./tokenizers/tokenizer.ts";

const { call, signal, text } = optionTypes;
/** The function behind has a sentence of its own for what is out of range. */
const checkedThere = z.unknown().optional();
const division = z.enum(["content", "order"]).optional();
const keep = z
  .custom<HeldOutTexts>(
    (value) => (value as HeldOutTexts | null)?.hashes instanceof Set,
    "expected what an earlier preparation held out",
  )
  .optional();
const isTokenizer = (value: unknown): boolean => typeof (value as Tokenizer | null)?.encode === "function";
const tokenizer = z.custom<Tokenizer>(isTokenizer, "expected a tokenizer, as openTokenizer gives it");

const documentShape = {
  documents: z.enum(documentRules).optional(),
  field: text.min(1).optional(),
  skipEmpty: z.boolean().optional(),
};
const documentSchema = optionSchema<DocumentOptions>({ ...documentShape, documents: checkedThere });
const corpusSchema = optionSchema<CorpusOptions>({
  ...documentShape,
  inputs: z.union([text, z.array(text)], "expected a path or paths"),
  tokenizer,
  out: text.min(1),
  heldOut: checkedThere,
  seed: checkedThere,
  division,
  keep,
  tokenizeThreads: checkedThere,
  onProgress: call.optional(),
  signal: signal.optional(),
});
const datasetSchema = optionSchema<DatasetOptions>({
  ...documentShape,
  tokenizer,
  cache: text.min(1).optional(),
  heldOut: z.number().min(0).lt(1).optional(),
  seed: optionTypes.seed.optional(),
  division,
  keep,
  tokenizeThreads: checkedThere,
  onProgress: call.optional(),
  signal: signal.optional(),
});

/**
 * Opens a data set: a name (`moby-dick`, `sotu`), a name with the folder of its files (`tinyshakespeare:DIR`,
 * `wikitext-103:DIR`, `wikitext-103-raw:DIR`, `mnist:DIR`), a text file, or a folder. A folder with files called train,
 * valid (or validation, val) and test has these splits; of any other text, documents are held out.
 * What was held out, what was read and what was passed over is told in the data set's `notes`.
 * A folder with the `train.tokens` and `valid.tokens` of `prepareCorpus` is opened as it is.
 * @throws MemformerError `DATA` for an unknown name, a missing package or file, text that is refused; `CONFIG` for a
 * tokenizer that does not fit; `IO` for what cannot be read or written.
 */
export async function openDataset(spec: string, options: DatasetOptions): Promise<Dataset> {
  checkOptions(datasetSchema, options, "openDataset");
  return open(spec, options);
}

/**
 * Tokenizes text into a training and a held-out file. Documents are held out whole, drawn by a hash of their text and
 * `seed`: equal ones are on one side, and a corpus that grows holds out what it did, as long as that is
 * between half the share and half as much again. Where documents are too few or too large for that, the end of one
 * is held out. Both files appear when both are whole. Text may be larger than memory.
 * @throws MemformerError as `readDocuments` and `writeTokenFile`; what the tokenizer throws, else `DATA`, naming the
 * document; `CONFIG` for a share out of range; `ABORTED` by `signal`.
 */
export async function prepareCorpus(options: CorpusOptions): Promise<PreparedCorpus> {
  checkOptions(corpusSchema, options, "prepareCorpus");
  return prepare(options);
}

/**
 * The documents of files and folders in the order given; a folder gives its .txt, .text, .md and .jsonl files (each
 * also as .gz), subfolders included, sorted by name; names that begin with a dot and other litter of programs are
 * passed over, with all below them. Memory holds one document at a time.
 * @throws MemformerError `IO` for what cannot be read; `DATA` for an empty document, a folder without text, a file
 * that is not UTF-8 text, a .jsonl line without its field; `CONFIG` for an unknown rule.
 */
export async function* readDocuments(
  inputs: string | readonly string[],
  options: DocumentOptions = {},
): AsyncGenerator<TextDocument, void, void> {
  checkOptions(documentSchema, options, "readDocuments");
  yield* read(inputs, options);
}
