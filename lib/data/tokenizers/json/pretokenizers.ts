// The pre-tokenizers of a tokenizer.json: text to pieces, each of which a model then writes in tokens. All classes of
// characters are Unicode's, as in the Rust `tokenizers`; JavaScript's \w, \d and \s are narrower or wider.
import { byteCharacters } from "./bytes.ts";
import { components, countOption, textOption, unsupported, type Component } from "./format.ts";
import { compilePattern, escape } from "./pattern.ts";
import { isolatedEnd, split, type Behavior, behaviorOf, type PieceEnd } from "./split.ts";

/** Where a piece lies: at the start of a text, at the start of one that continues another, or elsewhere. */
export type PiecePosition = "start" | "continued" | "inside";
type Splitter = (text: string, place: PiecePosition) => Iterable<string>;

/** A text in pieces, one by one. */
export type PreTokenizer = (text: string, place: PiecePosition) => Iterable<string>;

/** How a text is cut into pieces. */
export interface PreTokenizing {
  readonly split: PreTokenizer;
  /** The same pieces by their ends, where they lie side by side in the text: nothing need be made of each. */
  readonly end: PieceEnd | undefined;
  /**
   * What is yet to be done to each piece: it depends on the piece alone, and need not be done again for one that is
   * known.
   */
  readonly finish: (piece: string) => string;
}

/** The pre-tokenizer of a tokenizer.json. */
export function createPreTokenizer(given: Component | null | undefined): PreTokenizing {
  const steps = given === null || given === undefined ? [] : flatten(given);
  const byBytes = steps.at(-1)?.type === "ByteLevel";
  const splitters = steps.map((step, i) => createSplitter(step, byBytes && i === steps.length - 1));
  const pieces = chain(splitters, 0),
    cutting = steps.filter((step) => !(byBytes && step === steps.at(-1) && leavesWhole(step)));
  const pattern = cutting.length === 1 ? isolatedPattern(cutting[0]!) : undefined;
  return {
    split: (text, place) => (text === "" ? [] : pieces(text, place)),
    end: pattern && isolatedEnd(pattern),
    finish: byBytes ? byteCharacters : (piece) => piece,
  };
}

/** Whether a last step by bytes only spells the pieces of the steps before. */
function leavesWhole(byteLevel: Component): boolean {
  return byteLevel["use_regex"] === false && byteLevel["add_prefix_space"] !== true;
}

/** The pattern of a step that isolates its matches and does nothing else. */
function isolatedPattern(step: Component): RegExp | undefined {
  if (step.type === "ByteLevel")
    return step["use_regex"] !== false && step["add_prefix_space"] !== true ? gpt2Words : undefined;
  return step.type === "Split" && behaviorOf(step) === "Isolated" ? compilePattern(step["pattern"]) : undefined;
}

function flatten(given: Component): Component[] {
  return given.type === "Sequence" ? components(given["pretokenizers"], "pretokenizers").flatMap(flatten) : [given];
}

function chain(splitters: readonly Splitter[], from: number): PreTokenizer {
  const splitter = splitters[from];
  if (splitter === undefined) return (text) => [text];
  if (from + 1 === splitters.length) return splitter;
  const rest = chain(splitters, from + 1);
  return function* (text, place) {
    let first = true;
    for (const piece of splitter(text, place)) {
      yield* rest(piece, first && text.startsWith(piece) ? place : "inside");
      first = false;
    }
  };
}

function createSplitter(given: Component, finished: boolean): Splitter {
  switch (given.type) {
    case "ByteLevel":
      return byteLevel(given, finished);
    case "Metaspace":
      return metaspace(given);
    case "Split":
      return by(compilePattern(given["pattern"]), behaviorOf(given), given["invert"] === true);
    case "Whitespace":
      return by(words, "Removed", true);
    case "WhitespaceSplit":
      return by(whiteSpace, "Removed");
    case "Punctuation":
      return by(punctuation, behaviorOf(given, "Isolated"));
    case "Digits":
      return by(/\p{N}/gu, given["individual_digits"] === true ? "Isolated" : "Contiguous");
    case "CharDelimiterSplit":
      return by(new RegExp(escape(textOption(given, "delimiter")), "gu"), "Removed");
    case "BertPreTokenizer":
      return chain([by(whiteSpace, "Removed"), by(punctuation, "Isolated")], 0);
    case "FixedLength":
      return by(new RegExp(`[^]{1,${countOption(given, "length", 5)}}`, "gu"), "Isolated");
    default:
      throw unsupported("pre-tokenizer", given);
  }
}

const whiteSpace = /\p{White_Space}/gu;
const punctuation = /[\p{P}!-/:-@[-`{-~]/gu;
const words =
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu;
/** How GPT-2 cuts text into words. */
export const gpt2Words =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

function by(pattern: RegExp, behavior: Behavior, invert = false): Splitter {
  return (text) => split(text, pattern, behavior, invert);
}

function byteLevel(given: Component, finished: boolean): Splitter {
  const [prefix, splits] = [given["add_prefix_space"] === true, given["use_regex"] !== false];
  return function* (text, place) {
    const whole = prefix && place !== "continued" && !text.startsWith(" ") ? ` ${text}` : text;
    for (const piece of splits ? split(whole, gpt2Words, "Isolated", false) : [whole]) {
      yield finished ? piece : byteCharacters(piece);
    }
  };
}

function metaspace(given: Component): Splitter {
  const mark = textOption(given, "replacement", "▁");
  const scheme = textOption(given, "prepend_scheme", given["add_prefix_space"] === false ? "never" : "always");
  if (!["always", "first", "never"].includes(scheme))
    throw unsupported("pre-tokenizer", given, ` with prepend_scheme "${scheme}"`);
  const pattern = new RegExp(escape(mark), "gu");
  return (text, place) => {
    const marked = text.replaceAll(" ", mark);
    const isPrefixed = scheme === "always" ? place !== "continued" : scheme === "first" && place === "start";
    const whole = isPrefixed && !marked.startsWith(mark) ? mark + marked : marked;
    return given["split"] === false ? [whole] : split(whole, pattern, "MergedWithNext", false);
  };
}
