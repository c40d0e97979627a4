// The byte-pair model of a tokenizer.json.
import { mergePairs, PairTable } from "../bpe.ts";
import { byteNames, type Component, UnsupportedError } from "./format.ts";
import type { PieceModel, ModelFacts } from "./piece-model.ts";

const longPiece = 256; // characters: longer ones are cut where no token can cross

/** Merges characters (or the bytes that stand for them) by rank. */
export function bytePairModel(component: Component, { vocab, special }: ModelFacts): PieceModel {
  if (component["dropout"]) {
    throw new UnsupportedError(
      `its model drops merges at random (dropout ${JSON.stringify(component["dropout"])}): set dropout to null`,
    );
  }
  const prefix = (component["continuing_subword_prefix"] as string | null | undefined) ?? "";
  const suffix = (component["end_of_word_suffix"] as string | null | undefined) ?? "";
  const unknown = typeof component["unk_token"] === "string" ? vocab.get(component["unk_token"]) : undefined;
  const [byteFallback, fuse, whole] = ["byte_fallback", "fuse_unk", "ignore_merges"].map(
    (name) => component[name] === true,
  );
  const merges = pairTable(component["merges"], vocab, special, prefix);
  const cuts = new Cuts(vocab.keys());

  const symbolsOf = (text: string, first: boolean, last: boolean): number[] => {
    const symbols: number[] = [];
    for (let i = 0, character: string; i < text.length; i += character.length) {
      character = String.fromCodePoint(text.codePointAt(i)!);
      const start = first && i === 0 ? "" : prefix;
      const end = last && i + character.length === text.length ? suffix : "";
      const known = `${start}${character}${end}`;
      const id = vocab.get(known);
      if (id !== undefined) {
        symbols.push(id);
        continue;
      }
      const bytes = byteFallback ? byteNames(known).map((name) => vocab.get(name)) : [undefined];
      if (!bytes.includes(undefined)) symbols.push(...(bytes as number[]));
      else if (unknown !== undefined && !(fuse && symbols.at(-1) === unknown)) symbols.push(unknown);
    }
    return symbols;
  };

  return {
    tokens(piece) {
      const id = whole ? vocab.get(piece) : undefined;
      if (id !== undefined && !special.has(id)) return [id];
      if (piece.length <= longPiece) return mergePairs(symbolsOf(piece, true, true), merges);
      const tokens: number[] = [];
      for (let from = 0; from < piece.length;) {
        const to = cuts.after(piece, from);
        for (const token of mergePairs(symbolsOf(piece.slice(from, to), from === 0, to === piece.length), merges)) {
          if (!(fuse && token === unknown && tokens.at(-1) === unknown)) tokens.push(token);
        }
        from = to;
      }
      return tokens;
    },
  };
}

/** Merges of a tokenizer.json: pairs, or lines of two words. A merge that spells a special token never happens. */
function pairTable(
  merges: unknown,
  vocab: ReadonlyMap<string, number>,
  special: ReadonlySet<number>,
  prefix: string,
): PairTable {
  if (!Array.isArray(merges)) throw new Error("its model has no merges");
  const table = new PairTable(merges.length);
  for (let rank = 0; rank < merges.length; rank++) {
    const [left, right] = pairOf(merges[rank], rank);
    const [first, second] = [vocab.get(left), vocab.get(right)];
    const merged = vocab.get(left + (prefix === "" ? right : right.slice(prefix.length)));
    if (first === undefined || second === undefined || merged === undefined) {
      throw new Error(`merge ${rank} (${left} ${right}) is of tokens that the vocabulary lacks`);
    }
    if (!special.has(merged)) table.set(first, second, rank, merged);
  }
  return table;
}

function pairOf(merge: unknown, rank: number): readonly [string, string] {
  const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
  if (Array.isArray(pair) && pair.length === 2 && typeof pair[0] === "string" && typeof pair[1] === "string") {
    return pair as unknown as readonly [string, string];
  }
  throw new Error(`merge ${rank} is not a pair`);
}

/** Places where a text may be cut without changing its tokens: between characters that no token has side by side. */
class Cuts {
  readonly #tokens: Iterable<string>;
  #neighbours: Set<number> | undefined;

  constructor(tokens: Iterable<string>) {
    this.#tokens = tokens;
  }

  /** The first such place after `from`, else the end. */
  after(text: string, from: number): number {
    const neighbours = (this.#neighbours ??= this.#collect());
    for (let at = from + 1; at < text.length; at++) {
      if (!neighbours.has(text.charCodeAt(at - 1) * 0x10000 + text.charCodeAt(at)) && !isTrail(text.charCodeAt(at)))
        return at;
    }
    return text.length;
  }

  #collect(): Set<number> {
    const neighbours = new Set<number>();
    for (const token of this.#tokens) {
      for (let i = 1; i < token.length; i++) neighbours.add(token.charCodeAt(i - 1) * 0x10000 + token.charCodeAt(i));
    }
    return neighbours;
  }
}

function isTrail(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff;
}
