import { MemformerError } from "../errors.ts";
import { readBytes } from "./text-lines.ts";

/** A tensor of bytes. */
export interface IdxArray {
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/**
 * Reads an IDX file of bytes (the format of MNIST), plain or gzipped.
 * @throws MemformerError `DATA` if it is not one, or its length is not that of its shape; `IO` if it cannot be read.
 */
export async function readIdx(path: string): Promise<IdxArray> {
  return parseIdx(path, await readWhole(path));
}

/** All bytes of a file, gunzipped if need be. */
export async function readWhole(path: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of readBytes(path)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The array in an IDX file's bytes; `path` is for messages. @throws MemformerError as `readIdx`. */
export function parseIdx(path: string, file: Buffer): IdxArray {
  const bad = (what: string): MemformerError => new MemformerError("DATA", `${path} ${what}.`, { details: { path } });
  if (file.length < 4 || file[0] !== 0 || file[1] !== 0) throw bad("is not an IDX file");
  if (file[2] !== 0x08) throw bad(`holds IDX elements of type 0x${file[2]!.toString(16)}; only bytes (0x8) are read`);
  const headerLength = 4 + 4 * file[3]!;
  if (file.length < headerLength) throw bad("is cut short in its header");
  const shape = Array.from({ length: file[3]! }, (_, i) => file.readUInt32BE(4 + 4 * i));
  const elements = shape.reduce((product, size) => product * size, 1);
  const data = file.subarray(headerLength);
  if (data.length !== elements) {
    throw bad(`has ${data.length} bytes of data; its shape ${shape.join("x")} asks for ${elements}`);
  }
  return { shape, data };
}
