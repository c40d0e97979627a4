/** Small tokenizer.json files, as Python's tokenizers writes them. */

/** An entry of `added_tokens`. */
export function addedToken(id: number, content: string, flags: object = {}): { id: number; content: string } {
  return {
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
    ...flags,
  } as { id: number; content: string };
}

/** A byte-level BPE: byte b has the id b; 256 is "th", 257 "the". */
export function byteLevelJson(added: object[], options: object = {}) {
  const printable = (b: number): boolean => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let moved = 256;
  const alphabet = Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : moved++));
  const vocab = Object.fromEntries([...alphabet, "th", "the"].map((piece, id) => [piece, id]));
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true, ...options };
  return {
    version: "1.0",
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: byteLevel as object,
    post_processor: null,
    decoder: byteLevel as object,
    model: {
      type: "BPE",
      vocab,
      merges: [
        ["t", "h"],
        ["th", "e"],
      ],
      byte_fallback: false,
      ignore_merges: false,
    },
  };
}

const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true };

/** A unigram of four tokens: <unk>, a space, " the" and " sea". */
export const metaspaceJson = {
  version: "1.0",
  added_tokens: [addedToken(0, "<unk>")],
  normalizer: null,
  pre_tokenizer: metaspace,
  post_processor: null,
  decoder: metaspace,
  model: {
    type: "Unigram",
    unk_id: 0,
    vocab: [
      ["<unk>", 0],
      ["▁", -3],
      ["▁the", -4],
      ["▁sea", -4],
    ],
  },
};

/** Whole words, one of which looks like a start. */
export const wordLevelJson = {
  version: "1.0",
  added_tokens: [addedToken(0, "[UNK]")],
  normalizer: null,
  pre_tokenizer: { type: "Whitespace" },
  post_processor: null,
  decoder: null,
  model: { type: "WordLevel", vocab: { "[UNK]": 0, naïve: 1, "<s>": 3, café: 2 }, unk_token: "[UNK]" },
};
