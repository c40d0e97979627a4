// Encoding a long text without holding the thread.
import { setImmediate } from "node:timers/promises";
import { joined, type EncodeOptions, type Tokenizer } from "./tokenizers/tokenizer.ts";

const longestTurn = 10; // milliseconds

/**
 * What `tokenizer.encode` gives; other work of this thread goes on in between, where the tokenizer encodes in parts.
 */
export async function encodeAsync(tokenizer: Tokenizer, text: string, options?: EncodeOptions): Promise<Int32Array> {
  if (tokenizer.encodeParts === undefined) return tokenizer.encode(text, options);
  const parts: Int32Array[] = [];
  let began = performance.now();
  for (const part of tokenizer.encodeParts(text, options)) {
    parts.push(part);
    if (performance.now() - began < longestTurn) continue;
    await setImmediate();
    began = performance.now();
  }
  return joined(parts);
}
