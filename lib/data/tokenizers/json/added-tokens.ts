// Added tokens of a tokenizer.json: found in text before it is cut into pieces. Special ones are not looked for: text
// that spells one is text.
import { component, isId, isWellFormed, type AddedToken } from "./format.ts";
import { escape } from "./pattern.ts";

/** A stretch of text, or the added token that stood there. */
export type Section = { readonly text: string } | { readonly id: number };

/** The added tokens of a file. */
export function readAddedTokens(given: unknown): AddedToken[] {
  if (given === undefined || given === null) return [];
  if (!Array.isArray(given)) throw new Error("its added_tokens are not a list");
  return given.map((entry: unknown) => {
    const token = component(entry, "an added token");
    const { id, content } = token as { id?: unknown; content?: unknown };
    if (!isId(id)) throw new Error(`an added token has the id ${JSON.stringify(id)}`);
    if (typeof content !== "string" || content === "" || !isWellFormed(content)) {
      throw new Error(`added token ${id} has no text`);
    }
    const flag = (name: string, otherwise = false): boolean => (token[name] as boolean | undefined) ?? otherwise;
    const special = flag("special");
    return {
      id,
      content,
      special,
      normalized: flag("normalized", !special),
      single_word: flag("single_word"),
      lstrip: flag("lstrip"),
      rstrip: flag("rstrip"),
    };
  });
}

/** Cuts text at tokens: the leftmost first, of those the longest. */
export function tokenFinder(
  tokens: readonly AddedToken[],
  contentOf: (token: AddedToken) => string,
): (text: string) => Iterable<Section> {
  const byContent = new Map(
    tokens.map((token) => [contentOf(token), token]).filter(([content]) => content !== "") as [string, AddedToken][],
  );
  if (byContent.size === 0) return (text) => [{ text }];
  const contents = [...byContent.keys()].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(contents.map(escape).join("|"), "gu");
  return function* (text) {
    let from = 0;
    for (const { index, 0: content } of text.matchAll(pattern)) {
      const token = byContent.get(content)!;
      let [start, end] = [index, index + content.length];
      if (start < from || (token.single_word && isInsideWord(text, start, end))) continue;
      if (token.lstrip) while (start > from && isSpace(text[start - 1]!)) start--;
      if (token.rstrip) while (end < text.length && isSpace(text[end]!)) end++;
      if (start > from) yield { text: text.slice(from, start) };
      yield { id: token.id };
      from = end;
    }
    if (from < text.length) yield { text: text.slice(from) };
  };
}

function isInsideWord(text: string, start: number, end: number): boolean {
  const before = text.slice(Math.max(0, start - 2), start);
  return (
    new RegExp(`${wordCharacter}$`, "u").test(before) ||
    new RegExp(`^${wordCharacter}`, "u").test(text.slice(end, end + 2))
  );
}

const wordCharacter = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";

function isSpace(character: string): boolean {
  return /\p{White_Space}/u.test(character);
}
