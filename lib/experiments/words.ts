/** Words of a text as WikiText counts them, for perplexity by the word whatever the tokenizer. */
import type { TokenSource, Tokenizer } from "../data/index.ts";

/** What is between white space, and one more for the end of each line. */
export function wordsOf(text: string): number {
  return (text.match(/\S+/g)?.length ?? 0) + (text.match(/\n/g)?.length ?? 0);
}

/** Of all documents, decoded one by one. */
export async function wordsOfSource(source: TokenSource, tokenizer: Tokenizer): Promise<number> {
  let words = 0;
  for (let i = 0; i < source.documents; i++)
    words += wordsOf(tokenizer.decode(await source.read(i, 0, source.documentLength(i))));
  return words;
}
