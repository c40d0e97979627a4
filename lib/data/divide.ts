// Which documents are held out: drawn by what they are, so that a corpus that grows keeps its halves apart.
import { Random } from "./random.ts";
import { documentHash } from "./text-hash.ts";

/** A document as the draw sees it. */
export interface Countable {
  /** Equal documents stay on one side. */
  readonly hash: bigint;
  readonly tokens: number;
}

/** A document of which the end alone is held out. */
export interface Cut {
  readonly hash: bigint;
  /** The share of its text to hold out. */
  readonly share: number;
}

/** The documents held out of a corpus. */
export interface Division {
  /** Hashes of the documents held out whole. */
  readonly held: ReadonlySet<bigint>;
  readonly cut?: Cut | undefined;
}

/**
 * Tokens: a shorter end of a document is nothing to measure on. Of a corpus that small a whole document is held out.
 */
const leastEnd = 4;

/**
 * Draws documents so that about `share` of all tokens is held out, half of that at least and half as much again at
 * most.
 *
 * A document has a place from 0 to 1 by its hash and the seed; those below `share` are held out, whatever else there
 * is, so that a document does not change sides when others come. Where that leaves too much, documents are passed over
 * in the order of their places; where too little, those that follow are taken. If the rest does not fit, because
 * documents are few or hold most of the text, the end of one is held out, up to the share. Something is always held out
 * and something left, but of a single document of one character.
 */
export function divide(documents: Iterable<Countable>, share: number, seed: number): Division {
  const groups = new Map<bigint, { hash: bigint; place: number; tokens: number }>();
  let total = 0;
  for (const { hash, tokens } of documents) {
    const group = groups.get(hash) ?? { hash, place: placeOf(hash, seed), tokens: 0 };
    group.tokens += tokens;
    groups.set(hash, group);
    total += tokens;
  }
  const order = [...groups.values()].sort((a, b) => a.place - b.place);
  const wanted = share * total,
    most = Math.min(1.5 * wanted, (wanted + total) / 2);
  const held = new Set<bigint>();
  let tokens = 0;
  const take = (group: (typeof order)[number]): void => {
    if (tokens + group.tokens > most) return;
    held.add(group.hash);
    tokens += group.tokens;
  };
  const isEnough = (): boolean => held.size > 0 && tokens >= wanted / 2;

  for (const group of order) if (group.place < share) take(group);
  const tooLarge = order.reduce((sum, group) => sum + (group.tokens > most ? group.tokens : 0), 0);
  if (tooLarge <= total / 2) {
    for (const group of order) if (!held.has(group.hash) && !isEnough()) take(group);
  }
  if (isEnough()) return { held };
  if (wanted - tokens < leastEnd && order.length > 1) {
    if (held.size === 0) held.add(order.reduce((least, group) => (group.tokens < least.tokens ? group : least)).hash);
    return { held };
  }
  const cut = order.find((group) => !held.has(group.hash) && group.tokens > wanted - tokens);
  return { held, ...(cut && { cut: { hash: cut.hash, share: (wanted - tokens) / cut.tokens } }) };
}

/** From 0 to just below 1, evenly. */
function placeOf(hash: bigint, seed: number): number {
  return Number(documentHash(`${seed} ${hash}`) >> 11n) / 2 ** 53;
}

/**
 * Where to cut a text so that about `share` of it comes after: at a line's end if that leaves between half of it and
 * half as much again, else at white space, else between two characters. Undefined for a text of one character.
 */
export function cutPlace(text: string, share: number): number | undefined {
  if (text.length < 2) return undefined;
  const wanted = Math.min(Math.max(1, Math.floor(text.length * (1 - share))), text.length - 1);
  const tail = text.length - wanted;
  const first = Math.max(1, Math.ceil(text.length - 1.5 * tail)),
    last = Math.min(text.length - 1, text.length - Math.ceil(tail / 2));
  for (const mark of ["\n", " "]) {
    const before = text.lastIndexOf(mark, wanted - 1) + 1,
      after = text.indexOf(mark, wanted) + 1;
    if (before >= first) return before;
    if (after > 0 && after <= last) return after;
  }
  const inPair = /[\udc00-\udfff]/.test(text[wanted]!) && /[\ud800-\udbff]/.test(text[wanted - 1]!);
  if (!inPair) return wanted;
  return wanted > 1 ? wanted - 1 : wanted + 1 < text.length ? wanted + 1 : undefined;
}

/**
 * What memformer 0.1 held out: documents in an order drawn by `seed` until they reach the share, whatever the last
 * one's size. Runs that it began are read so.
 */
export function divideInOrder(lengths: readonly number[], share: number, seed: number): ReadonlySet<number> {
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const drawn = new Set<number>();
  let tokens = 0;
  for (const document of new Random(seed).permutation(lengths.length)) {
    if (drawn.size > 0 && (tokens >= share * total || drawn.size === lengths.length - 1)) break;
    drawn.add(document);
    tokens += lengths[document]!;
  }
  return drawn;
}

/** Where memformer 0.1 cut a text that was alone. */
export function cutPlaceInOrder(text: string, share: number): number | undefined {
  const wanted = Math.min(Math.max(1, Math.floor(text.length * (1 - share))), text.length - 1);
  const lineEnd = text.lastIndexOf("\n", wanted - 1) + 1;
  const at = lineEnd > wanted / 2 ? lineEnd : wanted;
  return (/[\udc00-\udfff]/.test(text[at] ?? "") ? at - 1 : at) || undefined;
}
