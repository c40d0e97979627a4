// A text's tokens, piece by piece, some thousands of tokens at a time.
import type { PieceEnd } from "./json/split.ts";
import type { PieceCache } from "./piece-cache.ts";
import type { TokenBuffer } from "./token-buffer.ts";

/** Tokens after which a part of the text's tokens is given. */
const partLength = 4096;

/** The tokens of pieces that lie side by side, the end of each found by `end`; the buffer is empty before and after. */
export function* tiled(
  text: string,
  end: PieceEnd,
  pieces: PieceCache,
  buffer: TokenBuffer,
): Generator<Int32Array, void, void> {
  for (let at = 0; at < text.length;) {
    at = appendTiles(text, at, end, pieces, buffer);
    yield buffer.take();
  }
}

/** The loop itself, apart: a generator's would be slower. Returns where it stopped. */
function appendTiles(text: string, from: number, end: PieceEnd, pieces: PieceCache, buffer: TokenBuffer): number {
  let at = from;
  while (at < text.length && buffer.length < partLength) {
    const to = end(text, at);
    pieces.append(text, at, to, buffer);
    at = to;
  }
  return at;
}

/** The tokens of pieces that are made one by one. */
export function* pieced(
  given: Iterable<string>,
  pieces: PieceCache,
  buffer: TokenBuffer,
): Generator<Int32Array, void, void> {
  for (const piece of given) {
    pieces.append(piece, 0, piece.length, buffer);
    if (buffer.length >= partLength) yield buffer.take();
  }
  if (buffer.length > 0) yield buffer.take();
}
