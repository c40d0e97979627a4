/** Tells a tokenizer from another of the same name: sessions are bound to it. */
import { createHash } from "node:crypto";
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";

const probe = "The whale, 1851: “naïve” swam on;\n\tso did 3.14 others — δ, 鲸, 🐋.";
const ids = 1024; // whose text is looked at, spread over the vocabulary

const known = new WeakMap<Tokenizer, string>();

/**
 * 32 hexadecimal digits of SHA-256, of its name, size and BOS, of how it encodes a text with letters of many kinds, and
 * of what up to 1,024 of its tokens stand for. (The name of a `tokenizer.json` holds a hash of the whole file.)
 */
export function tokenizerFingerprint(tokenizer: Tokenizer): string {
  const before = known.get(tokenizer);
  if (before !== undefined) return before;
  const { name, vocabulary, bos } = tokenizer;
  const stride = Math.max(1, Math.ceil(vocabulary / ids)),
    texts: string[] = [];
  for (let id = 0; id < vocabulary; id += stride) texts.push(attempt(() => tokenizer.decode([id])));
  const encoded = attempt(() => [...tokenizer.encode(probe)].join());
  const made = createHash("sha256")
    .update(JSON.stringify([name, vocabulary, bos, encoded, texts]))
    .digest("hex")
    .slice(0, 32);
  known.set(tokenizer, made);
  return made;
}

/** Some tokenizers have no token for a letter, or a gap in their ids. */
function attempt(make: () => string): string {
  try {
    return make();
  } catch {
    return "-";
  }
}
