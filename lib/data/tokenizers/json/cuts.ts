// Whether the text of a tokenizer.json may be cut after words.
import { components, type AddedToken, type Component } from "./format.ts";
import { patternsOfWords } from "../text-cuts.ts";

const composing = new Set(["NFC", "NFD", "NFKC", "NFKD"]);

/** Whether a text may be cut between a letter and white space: nothing in the tokenizer may look across. */
export function mayCutAfterWords(file: Component, findable: readonly AddedToken[]): boolean {
  const normalizer = file["normalizer"] as Component | null | undefined;
  if (normalizer && !composing.has(normalizer.type ?? "")) return false;
  if (findable.some(({ content, lstrip, rstrip }) => lstrip || rstrip || /\p{L}[ \n]/u.test(content))) return false;
  const pre = file["pre_tokenizer"] as Component | null | undefined;
  const steps = !pre ? [] : pre.type === "Sequence" ? components(pre["pretokenizers"], "pretokenizers") : [pre];
  const last = steps.at(-1);
  if (last?.type !== "ByteLevel" || last["add_prefix_space"] === true) return false;
  const splits = steps.slice(0, -1);
  return (
    (splits.length > 0 || last["use_regex"] !== false) &&
    splits.every(
      (split) =>
        split.type === "Split" &&
        split["behavior"] === (split["invert"] === true ? "Removed" : "Isolated") &&
        patternsOfWords.has((split["pattern"] as { Regex?: string }).Regex ?? ""),
    )
  );
}
