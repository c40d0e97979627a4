// Patterns of a tokenizer.json: a string, or a regular expression in the syntax of Oniguruma.
import * as huggingface from "@huggingface/tokenizers";
import { component, UnsupportedError } from "./format.ts";

/**
 * Of the package only its translation to JavaScript's expressions is used; its declarations cannot be resolved from an
 * ES module.
 */
const { SplitPreTokenizer } = huggingface as unknown as {
  SplitPreTokenizer: new (config: object) => { readonly pattern: RegExp | null };
};

/** A pattern as a global expression; a string matches itself. */
export function compilePattern(given: unknown): RegExp {
  const { String: text, Regex: expression } = component(given, "a pattern");
  if (typeof text === "string") return new RegExp(escape(text), "gu");
  if (typeof expression !== "string") throw new Error("a pattern is neither a string nor a regular expression");
  try {
    const { pattern } = new SplitPreTokenizer({ pattern: { Regex: expression }, invert: true });
    if (pattern !== null) return pattern;
    throw new Error("it gives none");
  } catch (cause) {
    throw new UnsupportedError(
      `its expression ${JSON.stringify(expression)} is not supported: ${(cause as Error).message}`,
    );
  }
}

/** A text as an expression that matches it. */
export function escape(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}
