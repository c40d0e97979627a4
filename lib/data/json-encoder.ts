// The encoder of a tokenizer.json. What a word is and where special tokens stand, `@huggingface/tokenizers` says; words
// are encoded once and remembered.
import { bytePairEncoder, type BytePairModel } from "./byte-pairs.ts";
import { cutAfterWord, patternsOfWords, type Cut } from "./text-cuts.ts";
import { WordCache } from "./word-cache.ts";

/** A step of pre-tokenization, as the package has it. */
interface PreTokenizer {
  readonly config?: {
    readonly type?: string;
    readonly add_prefix_space?: boolean;
    readonly use_regex?: boolean;
    readonly invert?: boolean;
    readonly behavior?: string;
    readonly pattern?: { readonly Regex?: string };
  };
  readonly pattern?: RegExp;
  /** Of a sequence: its steps. */
  readonly tokenizers?: readonly PreTokenizer[];
  (text: string | readonly string[], options?: object): string[];
}

/** What is used of the package; its own declarations cannot be resolved from an ES module. */
export interface JsonTokenizer {
  readonly pre_tokenizer: PreTokenizer | null;
  readonly model: {
    readonly tokens_to_ids: ReadonlyMap<string, number>;
    readonly unk_token_id: number | undefined;
    readonly fuse_unk: boolean;
    (words: readonly string[]): string[];
  };
  readonly added_tokens: readonly { readonly content: string; readonly lstrip: boolean; readonly rstrip: boolean }[];
  readonly added_tokens_map: ReadonlyMap<string, { readonly id: number }>;
  readonly tokenizer: { readonly model: BytePairModel; readonly normalizer: { readonly type?: string } | null };
  readonly config: { readonly remove_space?: boolean; readonly do_lowercase_and_remove_accent?: boolean };
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  /** Tokens of a text in order: added ones by their content, between them what the model gives. */
  encode_text(text: string): unknown[];
  decode(ids: number[], options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean }): string;
  get_vocab(withAdded: boolean): Map<string, number>;
}

/** Encodes texts; `cut` says where they may be cut, if they may. */
export interface JsonEncoder {
  readonly encode: (text: string) => Int32Array;
  readonly cut?: Cut;
}

/** Gives the same ids as `inner.encode`, several times as fast. */
export function jsonEncoder(inner: JsonTokenizer): JsonEncoder {
  // Where unknown words next to each other become one, a word's ids depend on its neighbours.
  if (inner.model.fuse_unk) {
    return { encode: (text) => Int32Array.from(inner.encode(text, { add_special_tokens: false }).ids) };
  }
  const { words, spelled } = splitting(inner.pre_tokenizer);
  const { added_tokens_map: added, model } = inner;
  const { tokens_to_ids: ids, unk_token_id: unknown } = model;
  const idOf = (token: string): number => added.get(token)?.id ?? ids.get(token) ?? unknown!;
  // An added token's id wins over the model's own, also where the model spells it.
  const own = [...added].every(([token, { id }]) => ids.get(token) === id)
    ? bytePairEncoder(inner.tokenizer.model, ids)
    : undefined;
  const cache = new WordCache((word) => {
    const spelling = spelled(word);
    return own?.(spelling) ?? model([spelling]).map(idOf);
  });
  const encodeWords = (found: readonly string[]): Ids => {
    const out = new Ids();
    for (const word of found) out.push(cache.get(word));
    return out;
  };
  // The same tokenizer, which splits its way and leaves a run of words as ids among the added tokens.
  const splitter = Object.create(inner, {
    pre_tokenizer: { value: words },
    model: { value: (found: readonly string[]) => [encodeWords(found)] },
  }) as JsonTokenizer;
  const encode = (text: string): Int32Array => {
    const out = new Ids();
    for (const part of splitter.encode_text(text)) out.push(part instanceof Ids ? part.taken() : idOf(part as string));
    return out.taken();
  };
  return maySplitAfterWords(inner) ? { encode, cut: cutAfterWord } : { encode };
}

/**
 * `words` takes a text apart; `spelled` writes one as the model knows it. Bytes are spelled last, so it need not be
 * done for a word that is remembered.
 */
function splitting(pre: PreTokenizer | null): {
  words: ((text: string, options?: object) => readonly string[]) | null;
  spelled: (word: string) => string;
} {
  const same = (word: string): string => word;
  const steps = pre === null ? [] : pre.tokenizers ?? [pre];
  const last = steps.at(-1);
  if (pre === null || last?.config?.type !== "ByteLevel" || last.config.add_prefix_space) {
    return { words: pre, spelled: same };
  }
  const before = steps.slice(0, -1), usesPattern = last.config.use_regex ?? true, pattern = last.pattern!;
  return {
    words: (text, options) => {
      const parts = before.reduce<readonly string[]>((found, step) => step(found, options), [text]);
      return usesPattern ? parts.flatMap((part) => part.match(pattern) ?? []) : parts;
    },
    spelled: bytesSpelled,
  };
}

/** GPT-2's spelling of bytes: printable ones of Latin-1 as they are, the others from U+0100 on. */
const letters = ((): string[] => {
  let moved = 0x100;
  const printable = (b: number): boolean => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : moved++));
})();

function bytesSpelled(word: string): string {
  let text = "";
  for (const byte of Buffer.from(word)) text += letters[byte]!;
  return text;
}

const composing = new Set(["NFC", "NFD", "NFKC", "NFKD"]);

/** Whether a text may be cut between a letter and white space: nothing in the tokenizer may look across. */
function maySplitAfterWords({ pre_tokenizer: pre, added_tokens, tokenizer, config }: JsonTokenizer): boolean {
  const { normalizer } = tokenizer;
  if (normalizer !== null && !composing.has(normalizer.type ?? "")) return false;
  if (config.remove_space || config.do_lowercase_and_remove_accent) return false;
  if (added_tokens.some(({ content, lstrip, rstrip }) => lstrip || rstrip || /\p{L}[ \n]/u.test(content))) return false;
  const steps = pre === null ? [] : pre.tokenizers ?? [pre];
  const last = steps.at(-1)?.config;
  if (last?.type !== "ByteLevel" || last.add_prefix_space) return false;
  const splits = steps.slice(0, -1);
  return (splits.length > 0 || (last.use_regex ?? true)) && splits.every(({ config: split }) =>
    split?.type === "Split" && split.behavior === (split.invert ? "Removed" : "Isolated") &&
    patternsOfWords.has(split.pattern?.Regex ?? ""));
}

/** Ids that grow. */
class Ids {
  #ids = new Int32Array(1024);
  #length = 0;

  push(ids: number | ArrayLike<number>): void {
    if (typeof ids === "number") {
      if (this.#length === this.#ids.length) this.#grow(1);
      this.#ids[this.#length++] = ids;
      return;
    }
    if (this.#length + ids.length > this.#ids.length) this.#grow(ids.length);
    for (let i = 0; i < ids.length; i++) this.#ids[this.#length++] = ids[i]!;
  }

  taken(): Int32Array {
    return this.#ids.subarray(0, this.#length);
  }

  #grow(by: number): void {
    const larger = new Int32Array(2 * this.#ids.length + by);
    larger.set(this.#ids);
    this.#ids = larger;
  }
}
