// GPT-2's byte-pair encoding. Its tables take a tenth of a second and 20 MB, so this file is imported on first use.
import ranks from "gpt-tokenizer/bpeRanks/r50k_base";
import { encode } from "gpt-tokenizer/encoding/r50k_base";
import { cutAfterWord } from "./text-cuts.ts";
import { byteTokenizer, type Tokenizer } from "./tokenizer.ts";

/** The tokenizer of GPT-2. Text that spells `<|endoftext|>` is text, not BOS. */
export function gpt2(): Tokenizer {
  const ordinary = { disallowedSpecial: new Set<string>() };
  return byteTokenizer(
    { name: "gpt2", bos: 50256 },
    (text) => Int32Array.from(encode(text, ordinary)),
    (token) => {
      const entry = ranks[token]!;
      return typeof entry === "string" ? Buffer.from(entry, "utf8") : Uint8Array.from(entry);
    },
    cutAfterWord,
  );
}
