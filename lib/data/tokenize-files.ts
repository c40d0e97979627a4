import { stat } from "node:fs/promises";
import { documentsOf, type DocumentOptions, type TextDocument } from "./documents.ts";
import { textFiles } from "./text-files.ts";
import { documentHash } from "./text-hash.ts";
import type { ReadCounter } from "./text-lines.ts";
import type { TokenHeader } from "./token-format.ts";
import { writeTokenParts } from "./token-writer.ts";
import { ProgressMeter } from "./tokenize-progress.ts";
import { tokenize, type TokenizeOptions } from "./tokenize.ts";

/** Bytes of text that gzip makes of one on disk, about. */
const gzipRatio = 3;

/**
 * Tokenizes text files into one token file. Documents are hashed as they are read, whoever tokenizes them.
 * @throws MemformerError as `readDocuments`, `tokenize` and `writeTokenFile`; nothing is left then.
 */
export async function writeTokenized(
  path: string,
  inputs: string | readonly string[],
  options: DocumentOptions & TokenizeOptions,
): Promise<TokenHeader> {
  const { files } = await textFiles(inputs);
  const hashes: bigint[] = []; // of the documents read so far
  const sizes = await Promise.all(
    files.map(async (file) =>
      stat(file).then(
        ({ size }) => size,
        () => 0,
      ),
    ),
  );
  const text = files.reduce((sum, file, i) => sum + sizes[i]! * (file.endsWith(".gz") ? gzipRatio : 1), 0);
  const counter: ReadCounter = { read: 0, size: sizes.reduce((sum, size) => sum + size, 0) };
  const documents = async function* (): AsyncGenerator<TextDocument, void, void> {
    for await (const document of documentsOf(files, options, counter)) {
      hashes.push(documentHash(document.text));
      yield document;
    }
  };
  const meter = options.onProgress && new ProgressMeter(counter, options.onProgress);
  return writeTokenParts(path, tokenize(documents(), text, options, meter), options.tokenizer, hashes);
}
