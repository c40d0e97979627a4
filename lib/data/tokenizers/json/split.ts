// Cutting a text at the matches of a pattern.
import { textOption, unsupported, type Component } from "./format.ts";

/**
 * What becomes of what matches: dropped, a piece of its own, or a part of the piece before or after, or of its like.
 */
export type Behavior = "Removed" | "Isolated" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";
const behaviors: readonly Behavior[] = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"];

/** The behavior a component asks for. */
export function behaviorOf(component: Component, otherwise?: Behavior): Behavior {
  const name = textOption(component, "behavior", otherwise);
  const known = behaviors.find((behavior) => behavior.toLowerCase() === name.toLowerCase());
  if (known === undefined) throw unsupported("pre-tokenizer", component, ` with behavior "${name}"`);
  return known;
}

/** The pieces of `text`, none empty. `invert`: what does not match counts as what does. */
export function split(text: string, pattern: RegExp, behavior: Behavior, invert: boolean): Iterable<string> {
  return behavior === "Isolated" ? isolated(text, pattern) : merged(text, pattern, behavior, invert);
}

/** Where the piece that begins at `at` ends, beyond it: of pieces that lie side by side and leave nothing out. */
export type PieceEnd = (text: string, at: number) => number;

/** The pieces of "Isolated", the common case: every match, and all between two of them, stands alone. */
export function isolatedEnd(pattern: RegExp): PieceEnd {
  const here = new RegExp(pattern.source, `${pattern.flags.replace(/[gy]/g, "")}y`);
  const next = new RegExp(pattern.source, `${pattern.flags.replace(/[gy]/g, "")}g`);
  const between = (text: string, at: number, isEmpty: boolean): number => {
    next.lastIndex = isEmpty ? at + String.fromCodePoint(text.codePointAt(at)!).length : at;
    return next.exec(text)?.index ?? text.length;
  };
  return (text, at) => {
    here.lastIndex = at;
    const isMatch = here.test(text),
      end = here.lastIndex;
    return isMatch && end > at ? end : between(text, at, isMatch);
  };
}

function* isolated(text: string, pattern: RegExp): Generator<string, void, void> {
  const endOf = isolatedEnd(pattern);
  for (let at = 0, end: number; at < text.length; at = end) yield text.slice(at, (end = endOf(text, at)));
}

function* merged(text: string, pattern: RegExp, behavior: Behavior, invert: boolean): Generator<string, void, void> {
  let from = 0; // of the piece under way
  let to = 0;
  let previous = false; // what was last seen matched
  let open = false; // the piece under way may grow
  for (const part of parts(text, pattern)) {
    const isMatch = part.isMatch !== invert;
    if (behavior === "Removed") {
      if (!isMatch && part.to > part.from) yield text.slice(part.from, part.to);
      continue;
    }
    const joins =
      behavior === "Contiguous"
        ? isMatch === previous
        : behavior === "MergedWithPrevious"
          ? isMatch && !previous
          : previous && !isMatch; // MergedWithNext
    if (!(joins && open)) {
      if (to > from) yield text.slice(from, to);
      from = part.from;
    }
    [to, previous, open] = [part.to, isMatch, true];
  }
  if (to > from) yield text.slice(from, to);
}

interface Part {
  readonly from: number;
  readonly to: number;
  readonly isMatch: boolean;
}

/** Matches and what lies between them, in order. */
function* parts(text: string, pattern: RegExp): Generator<Part, void, void> {
  let seen = 0;
  for (const {
    index,
    0: { length },
  } of text.matchAll(pattern)) {
    if (index > seen) yield { from: seen, to: index, isMatch: false };
    yield { from: index, to: index + length, isMatch: true };
    seen = index + length;
  }
  if (seen < text.length) yield { from: seen, to: text.length, isMatch: false };
}
