// The interface of a tokenizer.json's models.

/** A piece of text, as pre-tokenizing left it, to ids. */
export interface PieceModel {
  tokens(piece: string): readonly number[];
}

/** What a model is made with: its tokens, and the ids that text never becomes. */
export interface ModelFacts {
  readonly vocab: ReadonlyMap<string, number>;
  readonly special: ReadonlySet<number>;
}

/** A piece of text that the tokenizer cannot write. */
export class NoTokenError extends Error {
  constructor(piece: string) {
    super(
      `it has no token for ${JSON.stringify(piece.length > 40 ? `${piece.slice(0, 40)}…` : piece)}, and none for what is unknown`,
    );
  }
}
