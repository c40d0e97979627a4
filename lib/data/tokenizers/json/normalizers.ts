// The normalizers of a tokenizer.json: text to text.
import { charsmap } from "./charsmap.ts";
import { components, textOption, unsupported, type Component } from "./format.ts";
import { compilePattern } from "./pattern.ts";
import { byteCharacters } from "./bytes.ts";

/** `continues`: the text goes on from earlier text, so nothing is put before it. */
export type Normalizer = (text: string, continues: boolean) => string;

/** @throws UnsupportedError for an unknown type. */
export function createNormalizer(given: Component | null | undefined): Normalizer {
  if (given === null || given === undefined) return (text) => text;
  switch (given.type) {
    case "Sequence": {
      const steps = components(given["normalizers"], "normalizers").map(createNormalizer);
      return (text, continues) => steps.reduce((result, step) => step(result, continues), text);
    }
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = given.type;
      return (text) => text.normalize(form);
    }
    case "Prepend": {
      const prefix = textOption(given, "prepend");
      return (text, continues) => (text === "" || continues ? text : prefix + text);
    }
    case "Replace": {
      const [pattern, content] = [compilePattern(given["pattern"]), textOption(given, "content")];
      return (text) => text.replace(pattern, () => content);
    }
    case "Strip": {
      const [left, right] = [given["strip_left"] !== false, given["strip_right"] !== false];
      return (text) => strip(text, left, right);
    }
    case "Lowercase":
      return lowercase;
    case "StripAccents":
      return (text) => text.replace(/\p{M}+/gu, "");
    case "BertNormalizer":
      return bertNormalizer(given);
    case "Nmt":
      return (text) => text.replace(nmtDropped, "").replace(nmtSpaces, " ");
    case "ByteLevel":
      return byteCharacters;
    case "Precompiled": {
      const data = given["precompiled_charsmap"];
      return typeof data === "string" && data !== "" ? charsmap(data) : (text) => text;
    }
    default:
      throw unsupported("normalizer", given);
  }
}

/** What the training of Google's NMT left out, and what it took for a space. */
const nmtDropped = /[\u0001-\u0008\u000b\u000e-\u001f\u007f\u008f\u009f]/gu;
const nmtSpaces = /[\u0009\u000a\u000c\u000d\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/gu;

function strip(text: string, left: boolean, right: boolean): string {
  let [from, to] = [0, text.length];
  if (left) while (from < to && /\p{White_Space}/u.test(text[from]!)) from++;
  if (right) while (to > from && /\p{White_Space}/u.test(text[to - 1]!)) to--;
  return text.slice(from, to);
}

/** Character by character: no rule looks at neighbours, as JavaScript's does for the Greek sigma. */
function lowercase(text: string): string {
  return text.includes("Σ")
    ? text
        .split("Σ")
        .map((part) => part.toLowerCase())
        .join("σ")
    : text.toLowerCase();
}

function bertNormalizer(given: Component): Normalizer {
  const isLower = given["lowercase"] !== false;
  const steps: ((text: string) => string)[] = [];
  if (given["clean_text"] !== false) {
    steps.push((text) =>
      text.replace(/[\0\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu, "").replace(/\p{White_Space}/gu, " "),
    );
  }
  if (given["handle_chinese_chars"] !== false) steps.push((text) => text.replace(ideographs, " $& "));
  if (given["strip_accents"] ?? isLower) steps.push((text) => text.normalize("NFD").replace(/\p{Mn}/gu, ""));
  if (isLower) steps.push(lowercase);
  return (text) => steps.reduce((result, step) => step(result), text);
}

const ideographs =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;
