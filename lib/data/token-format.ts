// The .tokens format, all numbers little-endian:
//   0      "MFTOKENS", the header's length as uint32, the header as JSON, zeros up to byte 4096
//   4096   the tokens of all documents, uint8, uint16 or uint32
//   then   for each document a uint64, its hash (text-hash.ts); `content` in the header is SHA-256 of this table. Files
//          of memformer 0.1 have neither.
//   then   for each document two uint64: where its tokens end, where its UTF-8 bytes end (counted over all documents)
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { hashOfTable } from "./text-hash.ts";
import { arrays, idsInDocuments } from "./token-source.ts";

const magic = "MFTOKENS";
const version = 1;
export const headerBytes = 4096;
const documentBytes = 16;

/** Bytes of the tables for each document. */
export function tableBytes({ documents, content }: Pick<TokenHeader, "documents" | "content">): number {
  return documents * (documentBytes + (content === undefined ? 0 : hashBytes));
}

const hashBytes = 8;
const count = z.int().min(1);
const schema = z.strictObject({
  version: z.literal(version),
  tokenizer: z.string().min(1).max(1000),
  vocabulary: z
    .int()
    .min(1)
    .max(2 ** 31 - 1),
  bos: z.int().min(0),
  dtype: z.enum(["uint8", "uint16", "uint32"]),
  documents: count,
  tokens: count,
  bytes: z.int().min(0),
  /** The identity of the documents: SHA-256 of their hashes in order. */
  content: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional(),
  /** Of a split drawn by `prepareCorpus`: what the training and the held-out file of one preparation have in common. */
  split: z
    .strictObject({
      /** SHA-256 of all documents' hashes and of how they were divided. */
      corpus: z.string(),
      /** The documents, by hash, of which the end alone is held out, from this character on. */
      cut: z.strictObject({ hash: z.string(), at: count }).optional(),
    })
    .optional(),
});

/** The header of a .tokens file. */
export type TokenHeader = Readonly<z.infer<typeof schema>>;
/** The header's entry on the split that a .tokens file belongs to. */
export type TokenSplit = NonNullable<TokenHeader["split"]>;

export function encodeHeader(facts: Omit<TokenHeader, "version">): Buffer {
  const block = Buffer.alloc(headerBytes);
  const json = Buffer.from(JSON.stringify({ version, ...facts }));
  block.write(magic, 0, "latin1");
  block.writeUInt32LE(json.length, magic.length);
  json.copy(block, magic.length + 4);
  return block;
}

/** @throws MemformerError `DATA`, in words, for anything but a whole token file of this version. */
export function decodeHeader(path: string, block: Buffer, fileSize: number): TokenHeader {
  if (!hasMagic(block)) throw bad(path, "is not a token file");
  const length = block.length < headerBytes ? headerBytes : block.readUInt32LE(magic.length);
  if (length > headerBytes - magic.length - 4) throw bad(path, "has a damaged header");
  const header = schema.safeParse(parse(path, block.subarray(magic.length + 4, magic.length + 4 + length)));
  if (!header.success) {
    const issue = header.error.issues[0]!;
    if (issue.path[0] === "version") throw bad(path, `is of another version; this memformer reads version ${version}`);
    throw bad(path, `has a damaged header: ${issue.path.join(".")} ${issue.message}`);
  }
  const { documents, tokens, dtype, bos, vocabulary } = header.data;
  const needed = headerBytes + tokens * arrays[dtype].BYTES_PER_ELEMENT + tableBytes(header.data);
  if (fileSize < needed) throw bad(path, `is cut short: ${fileSize} bytes of ${needed}`);
  if (fileSize > needed) throw bad(path, `is longer than its header says: ${fileSize} bytes instead of ${needed}`);
  if (documents > tokens) throw bad(path, `claims more documents (${documents}) than tokens (${tokens})`);
  if (bos >= vocabulary) throw bad(path, `has its BOS ${bos} outside its vocabulary of ${vocabulary}`);
  return header.data;
}

/** Where each document ends, counted from the first one's start. */
export type DocumentEnds = Readonly<Record<"tokens" | "bytes", Float64Array>>;

/** Reads the table of hashes, if there is one. @throws MemformerError `DATA` if it is not that of the header. */
export function decodeHashes(path: string, header: TokenHeader, table: BigUint64Array): BigUint64Array | undefined {
  if (header.content === undefined) return undefined;
  if (hashOfTable(table) !== header.content) throw bad(path, "has a damaged table of hashes");
  return table;
}

/** Reads the table of ends. @throws MemformerError `DATA` if it is not that of the header. */
export function decodeEnds(path: string, header: TokenHeader, table: BigUint64Array): DocumentEnds {
  const { documents } = header;
  const ends = { tokens: new Float64Array(documents), bytes: new Float64Array(documents) };
  let [tokens, bytes] = [0, 0];
  for (let i = 0; i < documents; i++) {
    ends.tokens[i] = Number(table[2 * i]);
    ends.bytes[i] = Number(table[2 * i + 1]);
    if (ends.tokens[i]! <= tokens || ends.bytes[i]! < bytes) {
      throw bad(path, `has a damaged table: document ${i} ends before it starts`);
    }
    [tokens, bytes] = [ends.tokens[i]!, ends.bytes[i]!];
  }
  if (tokens !== header.tokens || bytes !== header.bytes) throw bad(path, "has a table that disagrees with its header");
  return ends;
}

/** @throws MemformerError `DATA` if a token read from the file is not one of its documents' ids. */
export function checkTokens(path: string, header: TokenHeader, tokens: Int32Array): void {
  const ids = idsInDocuments(header);
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    if (token >= 0 && token < ids) continue;
    throw bad(path, `is damaged: it holds token ${token}, its ids run from 0 to ${ids - 1}`);
  }
}

export function hasMagic(block: Buffer): boolean {
  return block.subarray(0, magic.length).toString("latin1") === magic;
}

function parse(path: string, json: Buffer): unknown {
  try {
    return JSON.parse(json.toString("utf8"));
  } catch (cause) {
    throw bad(path, "has a damaged header", cause);
  }
}

function bad(path: string, what: string, cause?: unknown): MemformerError {
  return new MemformerError("DATA", `${path} ${what}.`, { details: { path }, cause });
}
