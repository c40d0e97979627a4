import { randomBytes } from "node:crypto";
import { mkdir, open, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { MemformerError } from "../errors.ts";
import { documentBytes, encodeHeader, headerBytes, type TokenHeader } from "./token-format.ts";
import { compact, dtypeOf, type TokenDocument } from "./token-source.ts";
import type { Tokenizer } from "./tokenizer.ts";

const flushBytes = 1 << 20;

/**
 * Writes documents to a .tokens file as they come; memory holds one document, 16 bytes for each one written, and 1 MiB.
 * The file appears under its name only when it is whole; on any failure nothing is left. Missing folders are made.
 * @returns what the file says of itself.
 * @throws MemformerError `DATA` for no or an empty document, `TOKEN_RANGE` for a foreign id, `IO` if the disk refuses.
 */
export async function writeTokenFile(
  path: string,
  documents: AsyncIterable<TokenDocument> | Iterable<TokenDocument>,
  tokenizer: Tokenizer,
): Promise<TokenHeader> {
  const part = `${path}.${randomBytes(6).toString("hex")}.part`;
  let file: FileHandle | undefined;
  try {
    await refusing(path, () => mkdir(dirname(path), { recursive: true }));
    file = await refusing(path, () => open(part, "wx"));
    const header = await writeAll(path, file, documents, tokenizer);
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

async function writeAll(
  path: string,
  file: FileHandle,
  documents: AsyncIterable<TokenDocument> | Iterable<TokenDocument>,
  tokenizer: Tokenizer,
): Promise<TokenHeader> {
  const ends: number[] = []; // token end, byte end, token end, …
  let [tokens, bytes, pendingBytes] = [0, 0, 0];
  let pending: Uint8Array[] = [Buffer.alloc(headerBytes)];
  const flush = async (): Promise<void> => {
    const block = Buffer.concat(pending);
    [pending, pendingBytes] = [[], 0];
    await refusing(path, () => file.writeFile(block));
  };
  for await (const document of documents) {
    const { tokens: written, bytes: text } = compact(document, ends.length / 2, tokenizer);
    tokens += written.length;
    bytes += text;
    ends.push(tokens, bytes);
    pending.push(new Uint8Array(written.buffer, written.byteOffset, written.byteLength));
    pendingBytes += written.byteLength;
    if (pendingBytes >= flushBytes) await flush();
  }
  if (ends.length === 0) throw new MemformerError(
    "DATA",
    `There are no documents to write to ${path}.`,
    { details: { path } },
  );
  pending.push(new Uint8Array(BigUint64Array.from(ends, BigInt).buffer));
  await flush();

  const facts = {
    tokenizer: tokenizer.name, vocabulary: tokenizer.vocabulary, bos: tokenizer.bos, dtype: dtypeOf(tokenizer),
    documents: (ends.length * 8) / documentBytes, tokens, bytes,
  };
  await refusing(path, () => file.write(encodeHeader(facts), 0, headerBytes, 0));
  return { version: 1, ...facts };
}

/** Runs a file operation; its failure becomes a sentence that names the file. */
async function refusing<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw new MemformerError(
      "IO",
      `${path} cannot be written: ${(cause as Error).message}`,
      { details: { path }, cause },
    );
  }
}
