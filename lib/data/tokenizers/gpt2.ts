// GPT-2's byte-pair encoding. Its table takes a tenth of a second and 20 MB, so this file is imported on first use.
import ranks from "gpt-tokenizer/bpeRanks/r50k_base";
import { mergePairs, type Merges } from "./bpe.ts";
import { tiled } from "./encode-pieces.ts";
import { gpt2Words } from "./json/pretokenizers.ts";
import { isolatedEnd } from "./json/split.ts";
import { PieceCache } from "./piece-cache.ts";
import { cutAfterWord } from "./text-cuts.ts";
import { TokenBuffer } from "./token-buffer.ts";
import { byteTokenizer, type Tokenizer } from "./tokenizer.ts";

/** The tokenizer of GPT-2. Text that spells `<|endoftext|>` is text, not BOS. */
export function gpt2(): Tokenizer {
  const bytes = ranks.map((entry) => (typeof entry === "string" ? Buffer.from(entry, "utf8") : Uint8Array.from(entry)));
  const binary = bytes.map((token) => Buffer.from(token).toString("latin1")); // a character a byte
  const ids = new Map(binary.map((token, id) => [token, id]));
  const merges: Merges = {
    // a token's id is its rank, and names what the pair becomes
    rank: (left, right) => ids.get(binary[left]! + binary[right]!) ?? -1,
    merged: (rank) => rank,
  };
  const pieces = new PieceCache((piece) => {
    const symbols = Array.from(Buffer.from(piece, "utf8"), (byte) => ids.get(String.fromCharCode(byte))!);
    return mergePairs(symbols, merges);
  });
  const end = isolatedEnd(gpt2Words);
  const parts = (text: string): Iterable<Int32Array> => tiled(text, end, pieces, new TokenBuffer());
  return byteTokenizer({ name: "gpt2", bos: 50256 }, parts, (token) => bytes[token]!, cutAfterWord);
}
