import { stat } from "node:fs/promises";
import { documentsOf, textFiles, type DocumentOptions, type TextDocument } from "./documents.ts";
import type { ReadCounter } from "./text-lines.ts";
import type { TokenHeader } from "./token-format.ts";
import { writeTokenParts } from "./token-writer.ts";
import { ProgressMeter } from "./tokenize-progress.ts";
import { tokenize, type TokenizeOptions } from "./tokenize.ts";

/** Bytes of text that gzip makes of one on disk, about. */
const gzipRatio = 3;

/**
 * Tokenizes text files into one token file. `onDocument` sees each document before it is tokenized.
 * @throws MemformerError as `readDocuments`, `tokenize` and `writeTokenFile`; nothing is left then.
 */
export async function writeTokenized(
  path: string,
  inputs: string | readonly string[],
  options: DocumentOptions & TokenizeOptions,
  onDocument?: (document: TextDocument) => void,
): Promise<TokenHeader> {
  const files = await textFiles(inputs);
  const sizes = await Promise.all(files.map(async (file) => stat(file).then(({ size }) => size, () => 0)));
  const text = files.reduce((sum, file, i) => sum + sizes[i]! * (file.endsWith(".gz") ? gzipRatio : 1), 0);
  const counter: ReadCounter = { read: 0, size: sizes.reduce((sum, size) => sum + size, 0) };
  const documents = async function* (): AsyncGenerator<TextDocument, void, void> {
    for await (const document of documentsOf(files, options, counter)) {
      onDocument?.(document);
      yield document;
    }
  };
  const meter = options.onProgress && new ProgressMeter(counter, options.onProgress);
  return writeTokenParts(path, tokenize(documents(), text, options, meter), options.tokenizer);
}
