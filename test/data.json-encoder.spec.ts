/**
 * A tokenizer.json gives the same tokens for a text, whole or cut. What they are is compared with Python's in
 * data.tokenizer-*.spec.ts.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { openTokenizer } from "../lib/data/index.ts";
import { patternsOfWords } from "../lib/data/tokenizers/text-cuts.ts";
import { byteLevelJson } from "./support/byte-level.ts";

const sample =
  "the then there than that this thing think they're don't aaaa aaaaaaaa naïve 1234 12 ... !!! über über\n\nthe end\n";
const special = (content: string, id: number, more: object = {}): object => ({
  content,
  id,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
  ...more,
});
const isolated = (Regex: string): object => ({
  type: "Split",
  pattern: { Regex },
  behavior: "Isolated",
  invert: false,
});
const bytesOnly = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };

const kinds: [string, object][] = [
  ["as GPT-2's", {}],
  [
    "with special tokens",
    {
      added_tokens: [special("<s>", 900), special("<mask>", 901, { lstrip: true, rstrip: true }), special("the", 902)],
    },
  ],
  ["with NFC", { normalizer: { type: "NFC" } }],
  ["with a space put first", { pre_tokenizer: { type: "ByteLevel", add_prefix_space: true, use_regex: true } }],
  [
    "with digits apart",
    {
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Digits", individual_digits: true },
          { ...bytesOnly, use_regex: true },
        ],
      },
    },
  ],
  [
    "that joins unknown words",
    {
      pre_tokenizer: { type: "Whitespace" },
      model: { type: "BPE", unk_token: "?", fuse_unk: true, vocab: { "?": 0, t: 1, h: 2, th: 3 }, merges: ["t h"] },
    },
  ],
  [
    "with unknown words",
    {
      pre_tokenizer: { type: "Whitespace" },
      model: { type: "BPE", unk_token: "?", vocab: { "?": 0, t: 1, h: 2, th: 3 }, merges: ["t h"] },
    },
  ],
  [
    "of word pieces",
    {
      pre_tokenizer: { type: "BertPreTokenizer" },
      model: {
        type: "WordPiece",
        unk_token: "?",
        continuing_subword_prefix: "##",
        vocab: { "?": 0, the: 1, "##n": 2, "##re": 3 },
      },
    },
  ],
  [
    "with word ends",
    {
      pre_tokenizer: { type: "Whitespace" },
      model: {
        type: "BPE",
        unk_token: "?",
        end_of_word_suffix: "</w>",
        vocab: { "?": 0, t: 1, "h</w>": 2, "th</w>": 3 },
        merges: ["t h</w>"],
      },
    },
  ],
  ...[...patternsOfWords].map((pattern, i): [string, object] => [
    `with published pattern ${i + 1}`,
    { pre_tokenizer: { type: "Sequence", pretokenizers: [isolated(pattern), bytesOnly] } },
  ]),
];
const word = fc.oneof(
  fc.constantFrom(
    "the",
    " the",
    "then",
    "<s>",
    " <mask> ",
    "\n",
    "\n\n",
    "  ",
    "\t",
    "'s",
    "n't",
    "über",
    "u\u0308",
    "1",
    "234",
    "!!",
    "a",
    "aaaa",
    "字",
    "\u00a0",
    "\r\n",
    "\u2003",
    "😀",
  ),
  fc.string({ unit: "grapheme", maxLength: 4 }),
  fc.string({ unit: "binary", maxLength: 4 }),
);
const text = fc.array(word, { maxLength: 40 }).map((words) => words.join(""));

describe("a tokenizer.json", () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
  });
  after(() => rmSync(folder, { recursive: true }));

  for (const [kind, changes] of kinds) {
    it(`${kind} encodes the same, cut or whole`, async () => {
      const path = join(folder, `${kind.replace(/\W/g, "-")}.json`);
      writeFileSync(path, byteLevelJson(sample, 40, changes));
      const ours = await openTokenizer(path);
      fc.assert(
        fc.property(text, fc.nat(120), (given, from) => {
          const ids = [...ours.encode(given)];
          const at = ours.cut?.(given, Math.min(from, given.length));
          if (at !== undefined)
            expect([...ours.encode(given.slice(0, at)), ...ours.encode(given.slice(at))]).to.eql(ids);
        }),
        { numRuns: 300 },
      );
    });
  }

  it("may be cut where its words are known, and not where something may look across", async () => {
    const cuts = [];
    for (const [kind, changes] of kinds) {
      const path = join(folder, "cut.json");
      writeFileSync(path, byteLevelJson(sample, 1, changes));
      if ((await openTokenizer(path)).cut !== undefined) cuts.push(kind);
    }
    expect(cuts).to.eql([
      "as GPT-2's",
      "with special tokens",
      "with NFC",
      ...[...patternsOfWords].map((_, i) => `with published pattern ${i + 1}`),
    ]);
  });
});
