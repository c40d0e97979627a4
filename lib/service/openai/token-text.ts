/** What a token is called in log-probabilities. */
import type { Tokenizer } from "../../data/tokenizers/tokenizer.ts";

/**
 * The text that a token adds behind another; `token_id:N` where that is not whole characters, or nothing. `before`: the
 * token that it follows, if one is known.
 */
export function tokenText(tokenizer: Tokenizer, id: number, before: number | undefined): string {
  const whole = wholeText(tokenizer, id, undefined);
  if (whole === undefined) return tokenName(id);
  if (before === undefined || wholeText(tokenizer, before, undefined) === undefined) return whole;
  return wholeText(tokenizer, id, before) ?? tokenName(id);
}

/** A name that no other token has. */
export function tokenName(id: number): string {
  return `token_id:${id}`;
}

function wholeText(tokenizer: Tokenizer, id: number, before: number | undefined): string | undefined {
  try {
    const decoder = tokenizer.decoder(before === undefined ? [] : [before]);
    const text = decoder.push([id]) + decoder.end();
    return text === "" || text.includes("\ufffd") ? undefined : text;
  } catch {
    return undefined; // the model has more ids than the tokenizer
  }
}
