// Texts that are no data of training: prompts. What is read, and what is refused, is as with the text of data.
import { readBytes, readText } from "./text-lines.ts";
import { PassThrough, pipeline, type Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { MemformerError } from "../errors.ts";

/**
 * The whole text of a file, or of a stream that is given a name; plain or gzipped, its byte order mark dropped.
 * @throws MemformerError `IO` if it cannot be read, `DATA` if it is not UTF-8.
 */
export async function readWholeText(path: string, stream?: Readable): Promise<string> {
  let text = "";
  for await (const piece of textPieces(path, stream)) text += piece;
  return text;
}

/** The same text as it arrives, of any length in constant space. */
export function textPieces(path: string, stream?: Readable): AsyncGenerator<string, void, void> {
  return readText(path, undefined, stream === undefined ? readBytes(path) : plainBytes(path, stream));
}

/** The bytes of a stream, gunzipped if its first two say so. */
async function* plainBytes(name: string, stream: Readable): AsyncGenerator<Uint8Array, void, void> {
  const whole: Uint8Array[] = [];
  for await (const chunk of stream) whole.push(chunk as Uint8Array);
  const bytes = Buffer.concat(whole);
  if (!(bytes[0] === 0x1f && bytes[1] === 0x8b)) return yield bytes;
  try {
    const unpacked = pipeline(new PassThrough().end(bytes), createGunzip(), () => {});
    for await (const chunk of unpacked) yield chunk as Uint8Array;
  } catch (cause) {
    throw new MemformerError("DATA", `${name} is damaged gzip: ${(cause as Error).message}`, {
      cause,
      details: { path: name },
    });
  }
}
