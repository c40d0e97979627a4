/**
 * A session as a store keeps it: 8 bytes of magic, the length of a header (uint32, little endian), the header in JSON,
 * and what `session.save()` gave. The header holds what belongs to the service: whose it is, who may write it, and the
 * answers of calls that may come twice.
 */
import { z } from "zod";
import { MemformerError } from "../errors.ts";

const MAGIC = Buffer.from("MFsrvc1\n", "latin1");
const START = MAGIC.length + 4;
const longestHeader = 1 << 22;

/** The answer of a call with an idempotency key. */
const resultSchema = z.strictObject({
  key: z.string(),
  /** SHA-256 of the request, in hex. */
  request: z.string(),
  body: z.json(),
});
const headerSchema = z.strictObject({
  created: z.number(),
  updated: z.number(),
  /** Counts the owners: a write of an earlier one is refused, since each takeover writes. */
  fence: z.int().nonnegative(),
  results: z.array(resultSchema),
});

/** What JSON holds. */
export type JsonValue = z.output<ReturnType<typeof z.json>>;
export type StoredResult = z.output<typeof resultSchema>;
export type RecordHeader = z.output<typeof headerSchema>;

export function packRecord(header: RecordHeader, session: Uint8Array): Uint8Array {
  const text = Buffer.from(JSON.stringify(header)),
    length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  return Buffer.concat([MAGIC, length, text, session]);
}

/** Throws MemformerError CHECKPOINT_FORMAT for other bytes, CHECKPOINT_VERSION for a record of a later version. */
export function unpackRecord(bytes: Uint8Array): { header: RecordHeader; session: Uint8Array } {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (buffer.length < START || !buffer.subarray(0, 6).equals(MAGIC.subarray(0, 6)))
    throw damaged("it is no record of a session");
  if (!buffer.subarray(0, MAGIC.length).equals(MAGIC))
    throw new MemformerError("CHECKPOINT_VERSION", "stored session: a later version of memformer wrote it");
  const length = buffer.readUInt32LE(MAGIC.length),
    end = START + length;
  if (length > longestHeader || end > buffer.length)
    throw damaged(`it is cut: a header of ${length} bytes does not fit`);
  return { header: headerOf(buffer.subarray(START, end)), session: buffer.subarray(end) };
}

function headerOf(text: Buffer): RecordHeader {
  let json: unknown;
  try {
    json = JSON.parse(text.toString("utf8"));
  } catch {
    throw damaged("its header is no JSON");
  }
  const parsed = headerSchema.safeParse(json);
  if (!parsed.success) throw damaged(`its header is not what was written: ${parsed.error.issues[0]!.message}`);
  return parsed.data;
}

function damaged(what: string): MemformerError {
  return new MemformerError("CHECKPOINT_FORMAT", `stored session: ${what}`);
}

const keptResults = 16;
const keptBytes = 1 << 18;

/** `results` with one more: the latest 16, and of those as many as fit into 256 KiB; the newest always. */
export function withResult(results: readonly StoredResult[], result: StoredResult): StoredResult[] {
  const kept = [result];
  let bytes = JSON.stringify(result).length;
  for (const earlier of results.filter(({ key }) => key !== result.key).reverse()) {
    bytes += JSON.stringify(earlier).length;
    if (kept.length === keptResults || bytes > keptBytes) break;
    kept.unshift(earlier);
  }
  return kept;
}
