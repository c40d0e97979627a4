// The decoders of a tokenizer.json, token by token: what they give one after the other is what the whole would give.
import { bytesOfCharacters } from "./bytes.ts";
import { components, countOption, textOption, unsupported, type Component } from "./format.ts";
import { compilePattern } from "./pattern.ts";

/** Takes tokens, as text, in order. */
export interface Sink {
  /** `isAdded`: the token is an added one, whose text stands for itself. */
  token(text: string, isAdded?: boolean): void;
  /** No more will come. */
  end(): void;
}

/** A step: what takes tokens and hands them on to `next`. */
type Stage = (next: Sink) => Sink;

/** Makes chains that give their text to `write`. @throws UnsupportedError for a type that is unknown. */
export function createDecoder(given: Component | null | undefined): (write: (text: string) => void) => Sink {
  const steps = given === null || given === undefined ? undefined : flatten(given);
  let isJoined = false; // tokens have become one text
  const stages = steps?.map((step) => {
    const stage = createStage(step, isJoined);
    isJoined ||= step.type === "ByteLevel" || step.type === "Fuse";
    return stage;
  }) ?? [spaced];
  return (write) => stages.reduceRight<Sink>((next, stage) => stage(next), { token: write, end() {} });
}

function flatten(given: Component): Component[] {
  return given.type === "Sequence" ? components(given["decoders"], "decoders").flatMap(flatten) : [given];
}

function createStage(given: Component, isJoined: boolean): Stage {
  const apart = (stage: Stage): Stage => {
    if (isJoined) throw unsupported("decoder", given, " behind one that joins tokens");
    return stage;
  };
  switch (given.type) {
    case "ByteLevel":
      return apart(byteLevel);
    case "ByteFallback":
      return isJoined ? same : byteFallback;
    case "Fuse":
      return same;
    case "Replace":
      return replace(given, isJoined);
    case "Strip":
      return isJoined ? stripText(given) : stripTokens(given);
    case "Metaspace":
      return apart(metaspace(given));
    case "WordPiece":
      return apart(wordPiece(given));
    case "BPEDecoder":
      return apart(wordEnds(textOption(given, "suffix", "</w>")));
    case "CTC":
      return apart(ctc(given));
    default:
      throw unsupported("decoder", given);
  }
}

const same: Stage = (next) => next;

/** A step that looks at one token alone, and at whether it is the first. */
function each(map: (text: string, isFirst: boolean) => string): Stage {
  return (next) => {
    let isFirst = true;
    return {
      token(text, isAdded) {
        next.token(map(text, isFirst), isAdded);
        isFirst = false;
      },
      end: () => next.end(),
    };
  };
}

/** Where there is no decoder. */
const spaced = each((text, isFirst) => (isFirst ? text : ` ${text}`));

/** UTF-8 from pieces that may end inside a character, whose beginning waits. */
function utf8(): { push(bytes: Uint8Array): string; end(): string } {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return { push: (bytes) => decoder.decode(bytes, { stream: true }), end: () => decoder.decode() };
}

const byteLevel: Stage = (next) => {
  const text = utf8();
  const write = (piece: string): void => {
    if (piece !== "") next.token(piece);
  };
  return {
    token: (token, isAdded) =>
      write(text.push((isAdded ? undefined : bytesOfCharacters(token)) ?? Buffer.from(token, "utf8"))),
    end() {
      write(text.end());
      next.end();
    },
  };
};

/** Tokens such as `<0x0A>` are bytes; bytes that are no character become U+FFFD. */
const byteFallback: Stage = (next) => {
  const text = utf8();
  const write = (piece: string, isAdded?: boolean): void => {
    if (piece !== "") next.token(piece, isAdded);
  };
  return {
    token(token, isAdded) {
      const byte = isAdded ? null : /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
      if (byte !== null) return write(text.push(Uint8Array.of(parseInt(byte[1]!, 16))));
      write(text.end());
      next.token(token, isAdded);
    },
    end() {
      write(text.end());
      next.end();
    },
  };
};

function replace(given: Component, isJoined: boolean): Stage {
  const [pattern, content] = [compilePattern(given["pattern"]), textOption(given, "content")];
  if (!isJoined) return each((text) => text.replace(pattern, () => content));
  const { String: wanted } = given["pattern"] as { String?: string };
  if (wanted === undefined || wanted === "")
    throw unsupported("decoder", given, " with an expression behind one that joins tokens");
  return (next) => {
    let held = ""; // what may be the beginning of a match
    return {
      token(text) {
        const parts = (held + text).split(wanted);
        const rest = parts.pop()!;
        const waiting = beginningOf(wanted, rest);
        held = rest.slice(rest.length - waiting);
        next.token([...parts, rest.slice(0, rest.length - waiting)].join(content));
      },
      end() {
        next.token(held);
        next.end();
      },
    };
  };
}

/** How many characters at the end of `text` begin `wanted`. */
function beginningOf(wanted: string, text: string): number {
  for (let length = Math.min(wanted.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(wanted.slice(0, length))) return length;
  }
  return 0;
}

interface StripOptions {
  readonly content: string;
  readonly start: number;
  readonly stop: number;
}

function stripOptions(given: Component): StripOptions {
  return {
    content: textOption(given, "content", " "),
    start: countOption(given, "start", 0),
    stop: countOption(given, "stop", 0),
  };
}

/** Up to `start` and `stop` characters off both ends of every token. */
function stripTokens(given: Component): Stage {
  const { content, start, stop } = stripOptions(given);
  return each((text) => {
    const characters = [...text];
    let [from, to] = [0, characters.length];
    while (from < Math.min(start, characters.length) && characters[from] === content) from++;
    while (to > from && characters.length - to < stop && characters[to - 1] === content) to--;
    return characters.slice(from, to).join("");
  });
}

/** The same off both ends of the whole text. */
function stripText(given: Component): Stage {
  const { content, start, stop } = stripOptions(given);
  return (next) => {
    let left = start; // characters that may still be dropped
    let held = 0; // characters at the end that are dropped if nothing follows
    return {
      token(token) {
        let text = token;
        while (left > 0 && text !== "") {
          if (!text.startsWith(content)) left = 0;
          else [text, left] = [text.slice(content.length), left - 1];
        }
        if (text === "") return;
        let whole = content.repeat(held) + text;
        held = 0;
        while (held < stop && whole.endsWith(content)) [whole, held] = [whole.slice(0, -content.length), held + 1];
        if (whole !== "") next.token(whole);
      },
      end: () => next.end(),
    };
  };
}

function metaspace(given: Component): Stage {
  const mark = textOption(given, "replacement", "▁");
  const isPrefixed =
    textOption(given, "prepend_scheme", given["add_prefix_space"] === false ? "never" : "always") !== "never";
  return each((text, isFirst) => text.replaceAll(mark, isFirst && isPrefixed ? "" : " "));
}

function wordPiece(given: Component): Stage {
  const prefix = textOption(given, "prefix", "##");
  const tidy = given["cleanup"] !== false ? tidied : (text: string): string => text;
  return each((text, isFirst) =>
    tidy(isFirst ? text : text.startsWith(prefix) ? text.slice(prefix.length) : ` ${text}`),
  );
}

/** No space before punctuation and English contractions. */
function tidied(text: string): string {
  const found = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " do not", " 's", " 've", " 're"];
  const meant = [".", "?", "!", ",", "'", "n't", "'m", " don't", "'s", "'ve", "'re"];
  return found.reduce((result, from, i) => result.replaceAll(from, meant[i]!), text);
}

/** A suffix marks a word's end: a space, but for the last. */
function wordEnds(suffix: string): Stage {
  return (next) => {
    let ended = false; // the token before: its space waits for another
    return {
      token(text) {
        const isEnd = suffix !== "" && text.endsWith(suffix);
        const word = isEnd ? text.slice(0, -suffix.length) : text;
        next.token(`${ended ? " " : ""}${word.replaceAll(suffix, " ")}`);
        ended = isEnd;
      },
      end: () => next.end(),
    };
  };
}

function ctc(given: Component): Stage {
  const [pad, delimiter] = [textOption(given, "pad_token", "<pad>"), textOption(given, "word_delimiter_token", "|")];
  const tidy =
    given["cleanup"] !== false
      ? (text: string): string => tidied(text).replaceAll(delimiter, " ")
      : (text: string): string => text;
  return (next) => {
    let last: string | undefined;
    return {
      token(text) {
        if (text !== last) next.token(tidy(text.replaceAll(pad, "")));
        last = text;
      },
      end: () => next.end(),
    };
  };
}
