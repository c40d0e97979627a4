// The unigram model of a tokenizer.json: the likeliest way to write a piece of text in tokens.
import { byteNames, type Component } from "./format.ts";
import { NoTokenError, type ModelFacts, type PieceModel } from "./piece-model.ts";

const unknownPenalty = 10; // below the least likely token

/** Viterbi over the tokens that begin at each character. */
export function unigramModel(component: Component, { vocab, special }: ModelFacts): PieceModel {
  const scores = (component["vocab"] as [string, number][]).map(([token, score]) => {
    if (typeof score !== "number") throw new Error(`the score of ${JSON.stringify(token)} is not a number`);
    return score;
  });
  const unknown = (component["unk_id"] as number | null | undefined) ?? undefined;
  if (unknown !== undefined && !(unknown in scores))
    throw new Error(`its unknown token ${unknown} is not in its vocabulary`);
  const byteFallback = component["byte_fallback"] === true;
  const unknownScore = scores.reduce((least, score) => Math.min(least, score), Infinity) - unknownPenalty;
  const trie = new Trie();
  for (const [token, id] of vocab) if (!special.has(id) && id < scores.length) trie.add(token, id);

  const tokensOf = (text: string): readonly number[] => {
    const id = trie.find(text);
    if (id !== undefined) return [id];
    const bytes = byteFallback ? byteNames(text).map((name) => vocab.get(name)) : [undefined];
    if (!bytes.includes(undefined)) return bytes as number[];
    if (unknown === undefined) throw new NoTokenError(text);
    return [unknown];
  };

  return {
    tokens(piece) {
      const best = new Float64Array(piece.length + 1).fill(-Infinity);
      const starts = new Int32Array(piece.length + 1).fill(-1); // of the last token up to here
      const known = new Uint8Array(piece.length + 1);
      const reach = (from: number, to: number, score: number, isKnown: boolean): void => {
        if (starts[to]! >= 0 && score <= best[to]!) return;
        best[to] = score;
        starts[to] = from;
        known[to] = isKnown ? 1 : 0;
      };
      best[0] = 0;
      for (let from = 0; from < piece.length;) {
        const width = piece.codePointAt(from)! > 0xffff ? 2 : 1;
        let single = false;
        trie.prefixes(piece, from, (to, id) => {
          reach(from, to, best[from]! + scores[id]!, true);
          single ||= to === from + width;
        });
        if (!single) reach(from, from + width, best[from]! + unknownScore, false);
        from += width;
      }
      const pieces: string[] = [];
      for (let end = piece.length; end > 0;) {
        let start = starts[end]!;
        if (known[end] === 0) while (start > 0 && known[start] === 0) start = starts[start]!; // unknown ones go together
        pieces.push(piece.slice(start, end));
        end = start;
      }
      return pieces.reverse().flatMap(tokensOf);
    },
  };
}

/** Tokens by their code units. */
class Trie {
  readonly #root: Node = { id: undefined, next: new Map() };

  add(token: string, id: number): void {
    let node = this.#root;
    for (let i = 0; i < token.length; i++) {
      const unit = token.charCodeAt(i);
      let child = node.next.get(unit);
      if (child === undefined) node.next.set(unit, (child = { id: undefined, next: new Map() }));
      node = child;
    }
    node.id = id;
  }

  find(token: string): number | undefined {
    let id: number | undefined;
    this.prefixes(token, 0, (to, found) => {
      if (to === token.length) id = found;
    });
    return id;
  }

  /** Every token that begins at `from`, the shortest first. */
  prefixes(text: string, from: number, found: (to: number, id: number) => void): void {
    let node: Node | undefined = this.#root;
    for (let i = from; i < text.length; i++) {
      node = node.next.get(text.charCodeAt(i));
      if (node === undefined) return;
      if (node.id !== undefined) found(i + 1, node.id);
    }
  }
}

interface Node {
  id: number | undefined;
  readonly next: Map<number, Node>;
}
