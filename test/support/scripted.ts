/** Generations whose tokens a test decides. */
import type { GenerateOptions, LogitsProcessor, Piece, Session } from "../../lib/index.ts";

/** A function over logits that lets nothing but these tokens be drawn, one after the other from `start` on. */
export function script(tokens: ArrayLike<number>, start: number): LogitsProcessor {
  return (logits, { position }) => {
    logits.fill(-Infinity);
    logits[tokens[(position - start) % tokens.length]!] = 0;
  };
}

/** Pieces of a generation that draws these tokens, which are those of the bytes of a text. */
export async function says(
  session: Session,
  said: string | Uint8Array | readonly number[],
  options: GenerateOptions = {},
): Promise<Piece[]> {
  const tokens = typeof said === "string" ? new TextEncoder().encode(said) : said;
  const pieces: Piece[] = [];
  const logitsProcessor = script(tokens, session.position);
  for await (const piece of session.generatePieces({ maxTokens: tokens.length, logitsProcessor, ...options }))
    pieces.push(piece);
  return pieces;
}

export function textOf(pieces: readonly Piece[]): string {
  return pieces.map(({ text }) => text).join("");
}

export function idsOf(pieces: readonly Piece[]): number[] {
  return pieces.flatMap(({ tokens }) => tokens.map(({ id }) => id));
}
