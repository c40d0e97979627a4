import { randomBytes } from "node:crypto";
import { open, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { makeFolder } from "../files/make-folder.ts";
import { MemformerError } from "../errors.ts";
import { hashOfTable } from "./text-hash.ts";
import { encodeHeader, headerBytes, type TokenHeader, type TokenSplit } from "./token-format.ts";
import {
  compact,
  dtypeOf,
  emptyDocument,
  type TokenDocument,
  type TokenizerFacts,
  type TokenPart,
} from "./token-source.ts";
import type { Tokenizer } from "./tokenizers/tokenizer.ts";

const flushBytes = 1 << 20;

/**
 * Writes documents to a .tokens file as they come; memory holds one document, 24 bytes for each one written, and 1 MiB.
 * The file appears under its name only when it is whole; on any failure nothing is left. Missing folders are made.
 * @param split of a file made by dividing a corpus: what it has in common with the other file.
 * @returns what the file says of itself.
 * @throws MemformerError `DATA` for no or an empty document, `TOKEN_RANGE` for a foreign id, `IO` if the disk refuses.
 */
export async function writeTokenFile(
  path: string,
  documents: AsyncIterable<TokenDocument> | Iterable<TokenDocument>,
  tokenizer: Tokenizer,
  split?: TokenSplit,
): Promise<TokenHeader> {
  const hashes: bigint[] = [];
  return writeTokenParts(path, wholeDocuments(documents, tokenizer, hashes), tokenizer, hashes, split);
}

/**
 * As `writeTokenFile`, of documents that come in parts, which are trusted to hold ids of `tokenizer`. `hashes` gets
 * each document's before its last part comes: see {@link TokenSource.documentHash}. Without it the file has none.
 */
export async function writeTokenParts(
  path: string,
  parts: AsyncIterable<readonly TokenPart[]>,
  tokenizer: TokenizerFacts,
  hashes?: readonly bigint[],
  split?: TokenSplit,
): Promise<TokenHeader> {
  const part = `${path}.${randomBytes(6).toString("hex")}.part`;
  let file: FileHandle | undefined;
  try {
    await refusing(path, () => makeFolder(dirname(path)));
    file = await refusing(path, () => open(part, "wx"));
    const header = await writeAll(path, file, parts, tokenizer, hashes, split);
    await refusing(path, () => file!.sync());
    await file.close();
    file = undefined;
    await refusing(path, () => rename(part, path));
    return header;
  } catch (error) {
    await file?.close().catch(() => {});
    await rm(part, { force: true }).catch(() => {});
    throw error;
  }
}

async function* wholeDocuments(
  documents: AsyncIterable<TokenDocument> | Iterable<TokenDocument>,
  tokenizer: Tokenizer,
  hashes: bigint[],
): AsyncGenerator<readonly TokenPart[], void, void> {
  for await (const document of documents) {
    const { hash, ...part } = compact(document, hashes.length, tokenizer);
    hashes.push(hash);
    yield [{ ...part, last: true }];
  }
}

async function writeAll(
  path: string,
  file: FileHandle,
  batches: AsyncIterable<readonly TokenPart[]>,
  tokenizer: TokenizerFacts,
  hashes: readonly bigint[] | undefined,
  split: TokenSplit | undefined,
): Promise<TokenHeader> {
  const ends: number[] = []; // token end, byte end, token end, …
  let [tokens, bytes, pendingBytes] = [0, 0, 0];
  let pending: Uint8Array[] = [Buffer.alloc(headerBytes)];
  const flush = async (): Promise<void> => {
    const block = Buffer.concat(pending);
    [pending, pendingBytes] = [[], 0];
    await refusing(path, () => file.writeFile(block));
  };
  for await (const parts of batches) {
    for (const { tokens: written, bytes: text, last } of parts) {
      tokens += written.length;
      bytes += text;
      pending.push(new Uint8Array(written.buffer, written.byteOffset, written.byteLength));
      pendingBytes += written.byteLength;
      if (!last) continue;
      if (tokens === (ends.at(-2) ?? 0)) throw emptyDocument(ends.length / 2);
      ends.push(tokens, bytes);
    }
    if (pendingBytes >= flushBytes) await flush();
  }
  if (ends.length === 0)
    throw new MemformerError("DATA", `There are no documents to write to ${path}.`, { details: { path } });
  const documents = ends.length / 2,
    table = BigUint64Array.from(hashes?.slice(0, documents) ?? []);
  pending.push(new Uint8Array(table.buffer), new Uint8Array(BigUint64Array.from(ends, BigInt).buffer));
  await flush();

  const facts = {
    tokenizer: tokenizer.name,
    vocabulary: tokenizer.vocabulary,
    bos: tokenizer.bos,
    dtype: dtypeOf(tokenizer),
    documents,
    tokens,
    bytes,
    ...(hashes && { content: hashOfTable(table) }),
    ...(split && { split }),
  };
  await refusing(path, () => file.write(encodeHeader(facts), 0, headerBytes, 0));
  return { version: 1, ...facts };
}

/** Runs a file operation; its failure becomes a sentence that names the file. */
async function refusing<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw new MemformerError("IO", `${path} cannot be written: ${(cause as Error).message}`, {
      details: { path },
      cause,
    });
  }
}
