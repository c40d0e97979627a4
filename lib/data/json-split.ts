// Cutting a text at the matches of a pattern.
import { textOption, unsupported, type Component } from "./json-format.ts";

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

/** The common case, and the fastest: every match, and all between two of them, stands alone. */
function* isolated(text: string, pattern: RegExp): Generator<string, void, void> {
  let seen = 0;
  for (const { index, 0: match } of text.matchAll(pattern)) {
    if (index > seen) yield text.slice(seen, index);
    if (match !== "") yield match;
    seen = index + match.length;
  }
  if (seen < text.length) yield text.slice(seen);
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
