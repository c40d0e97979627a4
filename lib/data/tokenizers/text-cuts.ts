// Where a text may be cut without a token changing: long documents are encoded piece by piece, on several threads.

/**
 * A place at or after `from` where the tokens of both sides, put together, are those of the whole text; the text's
 * length where there is none.
 */
export type TextCut = (text: string, from: number) => number;

/** Between any two characters: for tokenizers that take characters one by one. */
export const cutAnywhere: TextCut = (text, from) =>
  from < text.length && /[\udc00-\udfff]/.test(text[from]!) && from > 0 && /[\ud800-\udbff]/.test(text[from - 1]!)
    ? from + 1
    : Math.min(from, text.length);

/**
 * Between a letter and a space or line feed. That is safe where words are matched by a pattern none of whose matches
 * holds white space after a letter, or looks further than the white space it has begun.
 */
export const cutAfterWord: TextCut = (text, from) => {
  const wordEnd = /\p{L}(?=[ \n])/gu;
  wordEnd.lastIndex = from;
  return wordEnd.test(text) ? wordEnd.lastIndex : text.length;
};

/** The published patterns for which `cutAfterWord` holds, as tokenizer.json files spell them. GPT-2's is built in. */
export const patternsOfWords: ReadonlySet<string> = new Set([
  // GPT-2
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  // GPT-4 (cl100k), Llama 3
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" +
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  // Qwen 2 and 3
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" +
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  // GPT-4o (o200k), Llama 4
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" +
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+" +
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" +
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
]);
