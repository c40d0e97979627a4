/** Saved sessions taken apart and put together, so that a test can change what it means to. */
import { createHash } from "node:crypto";

export type Header = Record<string, unknown>;

const HEAD = 16;
const HASH = 32;

/** The header of a saved session of version 2, and the bytes behind it. */
export function takenApart(bytes: Uint8Array): { header: Header; body: Uint8Array } {
  const length = Buffer.from(bytes).readUInt32LE(12);
  const header = JSON.parse(Buffer.from(bytes.subarray(HEAD, HEAD + length)).toString()) as Header;
  return { header, body: bytes.subarray(HEAD + length, bytes.length - HASH) };
}

/** A session with a checksum that is right, whatever it holds. */
export function sealed(header: Header | string, body: Uint8Array, version = 2, length?: number): Uint8Array {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header)),
    head = Buffer.alloc(HEAD);
  head.write("MFsessn\n", "latin1");
  head.writeUInt32LE(version, 8);
  head.writeUInt32LE(length ?? text.length, 12);
  return resealed(Buffer.concat([head, text, body, Buffer.alloc(HASH)]));
}

/** The same bytes with the checksum that is right for them. */
export function resealed(bytes: Uint8Array): Uint8Array {
  const content = bytes.subarray(0, bytes.length - HASH);
  return new Uint8Array(Buffer.concat([content, createHash("sha256").update(content).digest()]));
}

/** A session as versions before 2 wrote it. */
export function jsonSession(header: unknown, body: Uint8Array): Uint8Array {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header)),
    length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  return new Uint8Array(Buffer.concat([length, text, body]));
}

/** A session of version 2 as version 1 would have been. */
export function asVersion1(bytes: Uint8Array): { header: Header; body: Uint8Array } {
  const { header, body } = takenApart(bytes);
  const [part] = header["state"] as { shape: number[]; dtype: string }[];
  const before = header["previous"] === true ? (header["config"] as { segmentLength: number }).segmentLength : 0;
  const count = before + (header["current"] as number);
  const tokens = [...new Int32Array(Uint8Array.from(body.subarray(0, 4 * count)).buffer)];
  return {
    header: {
      format: "memformer-session",
      version: 1,
      tokenizer: (header["tokenizer"] as { name: string }).name,
      weights: header["weights"],
      shape: [1, ...part!.shape],
      dtype: part!.dtype,
      previous: before === 0 ? null : tokens.slice(0, before),
      current: tokens.slice(before),
    },
    body: body.subarray(4 * count),
  };
}
