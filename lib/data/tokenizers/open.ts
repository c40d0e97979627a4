/** Opens a tokenizer by its name or file. */
import { MemformerError, nearest } from "../../errors.ts";
import { cutAnywhere } from "./text-cuts.ts";
import { byteTokenizer, type Tokenizer } from "./tokenizer.ts";

/**
 * Opens a tokenizer: `"bytes"` (UTF-8 bytes; vocabulary 257 with BOS 256), `"gpt2"` (byte-pair encoding; vocabulary
 * 50,257 with BOS 50,256), or the path of a Hugging Face `tokenizer.json`.
 * @throws MemformerError `CONFIG` for an unknown name, `IO` for an unreadable file, `DATA` for one that is no
 * tokenizer.
 */
export async function openTokenizer(spec: string): Promise<Tokenizer> {
  const tokenizer = await openBySpec(spec);
  opened.set(tokenizer, { ...tokenizer });
  return tokenizer;
}

/** Every tokenizer that `openTokenizer` gave, with what it was then. */
const opened = new WeakMap<Tokenizer, Tokenizer>();

/** Whether another thread gets the same tokenizer from its spec: a user's own, or a changed one, stays where it is. */
export function opensAgain(tokenizer: Tokenizer): boolean {
  const then = opened.get(tokenizer);
  return (
    then !== undefined && Object.entries(then).every(([key, value]) => tokenizer[key as keyof Tokenizer] === value)
  );
}

async function openBySpec(spec: string): Promise<Tokenizer> {
  if (spec === "bytes") return bytes;
  if (spec === "gpt2") return (await import("./gpt2.ts")).gpt2();
  if (typeof spec === "string" && (spec.endsWith(".json") || spec.includes("/"))) {
    return (await import("./json.ts")).openTokenizerJson(spec);
  }
  const meant = nearest(String(spec), ["bytes", "gpt2"]);
  throw new MemformerError(
    "CONFIG",
    `Unknown tokenizer ${JSON.stringify(spec)}${meant ? `: did you mean "${meant}"?` : "."} ` +
      `Known are "bytes", "gpt2" and the path of a tokenizer.json.`,
    { details: { option: "tokenizer", found: spec } },
  );
}

const everyByte = Array.from({ length: 256 }, (_, i) => Uint8Array.of(i));

const bytes = byteTokenizer(
  { name: "bytes", bos: 256 },
  (text) => [Int32Array.from(Buffer.from(text, "utf8"))],
  (token) => everyByte[token]!,
  cutAnywhere,
);
