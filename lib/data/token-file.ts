import { open, type FileHandle } from "node:fs/promises";
import { MemformerError } from "../errors.ts";
import { knownOptions, optionNames } from "../options.ts";
import { wholeNumber } from "./arguments.ts";
import {
  checkTokens,
  decodeEnds,
  decodeHashes,
  decodeHeader,
  hasMagic,
  headerBytes,
  tableBytes,
  type DocumentEnds,
  type TokenHeader,
} from "./token-format.ts";
import { arrays, checkRange, type TokenizerFacts, type TokenSource } from "./token-source.ts";

const blockBytes = 1 << 16;

/** How much of a token file is kept in memory. */
export interface TokenFileOptions {
  /** Bytes of the file kept in memory, in blocks of 64 KiB, the least recently read going first. Default 16 MiB. */
  readonly cacheBytes?: number;
}

/** A token source on disk: document tables in memory, 24 bytes per document, and the tokens read where they lie. */
export class TokenFile implements TokenSource {
  readonly path: string;
  readonly header: TokenHeader;
  readonly #file: FileHandle;
  readonly #ends: DocumentEnds;
  readonly #hashes: BigUint64Array | undefined;
  readonly #blocks = new Map<number, Promise<Buffer>>(); // in the order of their last use
  readonly #blockLimit: number;
  #closed = false;

  /** Use `openTokenFile`. */
  constructor(
    path: string,
    file: FileHandle,
    header: TokenHeader,
    { ends, hashes }: { ends: DocumentEnds; hashes: BigUint64Array | undefined },
    blocks: number,
  ) {
    this.path = path;
    this.header = header;
    this.#file = file;
    this.#ends = ends;
    this.#hashes = hashes;
    this.#blockLimit = blocks;
  }

  get tokenizer(): TokenizerFacts {
    return { name: this.header.tokenizer, vocabulary: this.header.vocabulary, bos: this.header.bos };
  }

  /** How many documents the file holds. */
  get documents(): number {
    return this.header.documents;
  }

  get tokens(): number {
    return this.header.tokens;
  }

  get bytes(): number {
    return this.header.bytes;
  }

  documentLength(document: number): number {
    return this.#ends.tokens[document]! - this.#start("tokens", document);
  }

  documentBytes(document: number): number {
    return this.#ends.bytes[document]! - this.#start("bytes", document);
  }

  documentHash(document: number): bigint | undefined {
    return this.#hashes?.[document];
  }

  async read(document: number, from: number, to: number, into = new Int32Array(to - from)): Promise<Int32Array> {
    if (this.#closed) throw new MemformerError("DISPOSED", `${this.path} was closed: open it again to read from it.`);
    checkRange(this, document, from, to, into);
    const width = arrays[this.header.dtype].BYTES_PER_ELEMENT;
    const origin = headerBytes + (this.#start("tokens", document) + from) * width;
    const end = origin + (to - from) * width;
    let filled = 0;
    for (let block = Math.floor(origin / blockBytes); filled < to - from; block++) {
      const bytes = await this.#block(block);
      const first = Math.max(origin - block * blockBytes, 0);
      const last = Math.min(end - block * blockBytes, blockBytes);
      if (last > bytes.length) throw new MemformerError("DATA", `${this.path} was cut short while it was being read.`);
      const view = new arrays[this.header.dtype](bytes.buffer as ArrayBuffer, first, (last - first) / width);
      into.set(view, filled);
      filled += view.length;
    }
    const result = into.subarray(0, to - from);
    checkTokens(this.path, this.header, result);
    return result;
  }

  /** Frees the file; reading then fails with `DISPOSED`. Closing twice is fine. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#blocks.clear();
    await this.#file.close();
  }

  /** For `await using`: as `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #start(what: "tokens" | "bytes", document: number): number {
    return document === 0 ? 0 : this.#ends[what][document - 1]!;
  }

  async #block(index: number): Promise<Buffer> {
    let block = this.#blocks.get(index);
    this.#blocks.delete(index);
    block ??= readFully(this.path, this.#file, index * blockBytes, blockBytes).catch((error: unknown) => {
      this.#blocks.delete(index); // a failure is not worth remembering
      throw error;
    });
    this.#blocks.set(index, block);
    if (this.#blocks.size > this.#blockLimit) this.#blocks.delete(this.#blocks.keys().next().value!);
    return block;
  }
}

/**
 * Opens a .tokens file for reading.
 * @throws MemformerError `IO` if it cannot be read, `DATA` if it is foreign, damaged, cut short or of another version.
 */
export async function openTokenFile(path: string, options: TokenFileOptions = {}): Promise<TokenFile> {
  knownOptions(optionNames<TokenFileOptions>({ cacheBytes: true }), options, "openTokenFile");
  const cacheBytes = wholeNumber(options.cacheBytes ?? 16 << 20, "cacheBytes", 0);
  const file = await open(path, "r").catch((cause: unknown) => {
    throw unreadable(path, cause);
  });
  try {
    const { size } = await file.stat();
    const header = decodeHeader(path, await readFully(path, file, 0, headerBytes), size);
    const bytes = tableBytes(header);
    const table = await readFully(path, file, size - bytes, bytes);
    const numbers = new BigUint64Array(table.buffer, table.byteOffset, bytes / 8);
    const hashes = decodeHashes(path, header, numbers.subarray(0, -2 * header.documents));
    const ends = decodeEnds(path, header, numbers.subarray(-2 * header.documents));
    return new TokenFile(path, file, header, { ends, hashes }, Math.max(1, Math.ceil(cacheBytes / blockBytes)));
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Whether a file begins as token files do; false for one that is absent or unreadable. */
export async function isTokenFile(path: string): Promise<boolean> {
  const file = await open(path, "r").catch(() => undefined);
  if (!file) return false;
  try {
    return hasMagic(await readFully(path, file, 0, headerBytes));
  } catch {
    return false;
  } finally {
    await file.close();
  }
}

/**
 * `length` bytes from `position` on, or as many as the file has; a fresh buffer, so that typed arrays can lie on it.
 */
async function readFully(path: string, file: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.from(new ArrayBuffer(length));
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await file.read(bytes, filled, length - filled, position + filled).catch((cause: unknown) => {
      throw unreadable(path, cause);
    });
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}

function unreadable(path: string, cause: unknown): MemformerError {
  return new MemformerError("IO", `${path} cannot be read: ${(cause as Error).message}`, { details: { path }, cause });
}
