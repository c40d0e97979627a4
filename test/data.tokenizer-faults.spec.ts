// Tokenizers as a model and the world use them: any ids, files as others write them, texts that nobody wrote by hand.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { openTokenizer, type Tokenizer } from "../lib/data/index.ts";
import { failure } from "./support/failure.ts";
import { addedToken, byteLevelJson, metaspaceJson, wordLevelJson } from "./support/tokenizers.ts";
import reference from "./fixtures/tokenizers/models.json" with { type: "json" };

let folder: string;
let files = 0;

/** Opens a tokenizer.json, with a tokenizer_config.json beside it if there is one. */
async function open(file: object, config?: string | object): Promise<Tokenizer> {
  const place = join(folder, `t${files++}`);
  mkdirSync(place);
  writeFileSync(join(place, "tokenizer.json"), JSON.stringify(file));
  if (config !== undefined) {
    writeFileSync(join(place, "tokenizer_config.json"), typeof config === "string" ? config : JSON.stringify(config));
  }
  return openTokenizer(join(place, "tokenizer.json"));
}

function streamed(tokenizer: Tokenizer, ids: readonly number[], before: readonly number[] = []): string {
  const decoder = tokenizer.decoder(before);
  return ids.map((id) => decoder.push([id])).join("") + decoder.end();
}

const fused = reference.cases.find(({ name }) => name === "BPE that fuses them")!.file;
const bytesToo = reference.cases.find(({ name }) => name === "BPE with bytes")!.file;

describe("tokenizers in the world", () => {
  before(() => {
    folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
  });
  after(() => rmSync(folder, { recursive: true }));

  describe("decode, token by token,", () => {
    const kinds: [string, () => Promise<Tokenizer>][] = [
      ["bytes", () => openTokenizer("bytes")],
      ["gpt2", () => openTokenizer("gpt2")],
      [
        "a byte-level tokenizer.json",
        () => open(byteLevelJson([addedToken(258, "<s>"), addedToken(300, "é", { special: false })])),
      ],
      ["one with spaces before words", () => open(metaspaceJson)],
      ["one with bytes for what is unknown", () => open(bytesToo)],
      ["one whose first space is dropped", () => open(fused)],
      ["one without a decoder", () => open(wordLevelJson)],
    ];
    for (const [label, opened] of kinds) {
      it(`any ids of ${label} to what they are together, without half characters, holding back little`, async () => {
        const tokenizer = await opened();
        const ids = fc.array(fc.nat(tokenizer.vocabulary - 1), { maxLength: 40 });
        fc.assert(
          fc.property(ids, ids, (first, second) => {
            const all = tokenizer.decode([...first, ...second]);
            const decoder = tokenizer.decoder();
            let told = "";
            for (const [i, id] of [...first, ...second].entries()) {
              const piece = decoder.push([id]);
              expect(/\p{Surrogate}/u.test(piece)).to.equal(false);
              told += piece;
              expect(all.startsWith(told)).to.equal(true);
              const now = tokenizer.decode([...first, ...second].slice(0, i + 1));
              expect(now.length - told.length).to.be.at.most(3); // three bytes wait for a fourth
            }
            expect(told + decoder.end()).to.equal(all);
            const continued = tokenizer.decoder(first);
            const rest = second.map((id) => continued.push([id])).join("") + continued.end();
            expect(all.endsWith(rest)).to.equal(true);
            expect(/\p{Surrogate}/u.test(rest)).to.equal(false);
          }),
          { numRuns: 200 },
        );
      });
    }

    it("what is no character as U+FFFD and the next one whole", async () => {
      const tokenizer = await open(byteLevelJson([]));
      const raw = [0x80, 0xf0, 0x9f, 0x98, 0x80]; // byte b has the id b
      expect(streamed(tokenizer, raw)).to.equal("\ufffd😀").and.equal(tokenizer.decode(raw));
      const more = [0x80, 0x80, 0x80, 0xc3, 0xa9];
      expect(streamed(tokenizer, more)).to.equal("\ufffd\ufffd\ufffdé").and.equal(tokenizer.decode(more));
    });

    it("a word's space after a special token, and after what came before", async () => {
      const tokenizer = await open(metaspaceJson);
      expect(streamed(tokenizer, [2, 0, 3]))
        .to.equal("the sea")
        .and.equal(tokenizer.decode([2, 0, 3]));
      expect(streamed(tokenizer, [3], [2])).to.equal(" sea");
      expect(streamed(tokenizer, [3], [0])).to.equal("sea");
      expect(streamed(tokenizer, [3], [2, 99, -1])).to.equal(" sea"); // ids of a larger model
    });

    it("a character begun by what came before", async () => {
      for (const tokenizer of [await openTokenizer("bytes"), await open(byteLevelJson([]))]) {
        expect(streamed(tokenizer, [0x98, 0x80, 0x61], [0x61, 0xf0, 0x9f])).to.equal("😀a");
      }
    });
  });

  describe("take BOS", () => {
    const two = byteLevelJson([addedToken(258, "<s>"), addedToken(259, "<doc>")]);

    it("from each form in which a tokenizer_config.json names it", async () => {
      const forms: [unknown, number][] = [
        ["<doc>", 259],
        [{ content: "<doc>" }, 259],
        [{ __type: "AddedToken", content: "<doc>", lstrip: false, normalized: true }, 259],
        [null, 258],
        [undefined, 258],
      ];
      for (const [token, bos] of forms) {
        const config = JSON.stringify({ bos_token: token, model_max_length: 1e30 });
        expect((await open(two, config)).bos, config).to.equal(bos);
        expect((await open(two, `\ufeff${config}`)).bos, config).to.equal(bos);
      }
    });

    it("from no file that is damaged, and name no token that is not there", async () => {
      const damaged = [
        '{"bos_token":"<doc>",}',
        "",
        "[]",
        "3",
        '{"bos_token":7}',
        '{"bos_token":{"text":"<doc>"}}',
        '{"bos_token":"<document>"}',
      ];
      for (const config of damaged) {
        const error = await failure(open(two, config));
        expect(error.code, config).to.equal("ERR_MEMFORMER_DATA");
        expect(error.message).to.include("tokenizer_config.json");
      }
    });

    it("by a usual name from special tokens only", async () => {
      expect((await open(wordLevelJson)).bos).to.equal(wordLevelJson.model.vocab["<s>"] + 1); // "<s>" is a word there
      expect((await open(byteLevelJson([addedToken(258, "<s>", { special: false })]))).bos).to.equal(259);
      expect(
        (await open(byteLevelJson([addedToken(258, "<s>", { special: false }), addedToken(259, "<|endoftext|>")]))).bos,
      ).to.equal(259);
    });
  });

  describe("take special tokens that text spells for text:", () => {
    it("they come back, and no special id is made", async () => {
      const tokenizer = await open(
        byteLevelJson([addedToken(258, "<s>"), addedToken(259, "</s>"), addedToken(260, "<|endoftext|>")]),
      );
      const text = "<s>old</s> and <|endoftext|>new";
      expect(tokenizer.decode(tokenizer.encode(text))).to.equal(text);
      expect(Math.max(...tokenizer.encode(text))).to.be.below(258);
    });

    it("they come back even where the model itself has them", async () => {
      const unigram = await open({
        ...metaspaceJson,
        added_tokens: [addedToken(0, "<unk>"), addedToken(4, "<s>")],
        model: {
          ...metaspaceJson.model,
          vocab: [...metaspaceJson.model.vocab, ["<s>", 0], ["<", -5], ["s", -5], [">", -5]],
        },
      });
      expect([...unigram.encode("<s>")]).to.eql([1, 5, 6, 7]);
      const merged = byteLevelJson([addedToken(257, "the")]); // a merge would make it
      expect([...(await open(merged)).encode("the")]).to.not.include(257);
      const words = await open({
        ...wordLevelJson,
        pre_tokenizer: { type: "WhitespaceSplit" },
        added_tokens: [addedToken(0, "[UNK]"), addedToken(3, "<s>")],
      });
      expect([...words.encode("<s> café")]).to.eql([0, 2]);
    });

    it("other added tokens are found", async () => {
      const tokenizer = await open(
        byteLevelJson([addedToken(258, "<s>"), addedToken(259, "<tool>", { special: false })]),
      );
      expect([...tokenizer.encode("a<tool><s>")].filter((id) => id >= 258)).to.eql([259]);
      expect(tokenizer.decode(tokenizer.encode("a<tool><s>"))).to.equal("a<tool><s>");
    });
  });

  it("split as the reference does where JavaScript's \\w is narrower", async () => {
    expect([...(await open(wordLevelJson)).encode("naïve café")]).to.eql([1, 2]);
  });

  it("give back any text", async () => {
    const any = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.string({ unit: "grapheme" }),
      fc.constantFrom("\r\n", "<s>", "\ufeff"),
    );
    for (const tokenizer of [
      await open(byteLevelJson([addedToken(258, "<s>")])),
      await open(bytesToo),
      await openTokenizer("gpt2"),
    ]) {
      fc.assert(
        fc.property(fc.array(any, { maxLength: 5 }), (pieces) => {
          const text = `x${pieces.join("")}`.replaceAll("▁", ""); // ▁ stands for a space, and the first one for none
          expect(tokenizer.decode(tokenizer.encode(text))).to.equal(text);
        }),
        { numRuns: 150 },
      );
    }
  });

  it("give back what they write in bytes, though a trainer has made those special", async () => {
    const file = {
      ...bytesToo,
      added_tokens: [
        ...bytesToo.added_tokens,
        ...Object.entries(bytesToo.model.vocab)
          .filter(([token]) => token.startsWith("<0x"))
          .map(([content, id]) => addedToken(id as number, content)),
      ],
    };
    const tokenizer = await open(file);
    expect(tokenizer.decode(tokenizer.encode("a 😀 <0x41>"))).to.equal("a 😀 <0x41>");
  });

  it("encode a text that continues another without putting anything before it", async () => {
    const kinds = [fused, byteLevelJson([], { add_prefix_space: true }), bytesToo];
    for (const file of kinds) {
      const tokenizer = await open(file);
      const ids = [
        ...tokenizer.encode("the whale"),
        ...tokenizer.encode("ship", { continues: true }),
        ...tokenizer.encode(" sea", { continues: true }),
      ];
      const before = file === kinds[1] ? " " : ""; // a byte-level decoder keeps the space it was given
      expect(tokenizer.decode(ids)).to.equal(`${before}the whaleship sea`);
    }
  });

  it("know the ids that stand for a token", async () => {
    const gaps = await open(byteLevelJson([addedToken(300, "<s>")]));
    expect([0, 257, 258, 299, 300, 301, -1, 0.5].map((id) => gaps.isToken!(id))).to.eql([
      true,
      true,
      false,
      false,
      true,
      false,
      false,
      false,
    ]);
    expect(gaps.decode([0x61, 299, 0x62])).to.equal("ab");
    const gpt2 = await openTokenizer("gpt2");
    expect([0, 50256, 50257].map((id) => gpt2.isToken!(id))).to.eql([true, true, false]);
  });

  it("refuse by name what they would do otherwise than the reference", async () => {
    const base = byteLevelJson([]);
    const changes: [object, string][] = [
      [{ pre_tokenizer: { type: "UnicodeScripts" } }, "UnicodeScripts"],
      [{ normalizer: { type: "Mystery" } }, "Mystery"],
      [{ decoder: { type: "Mystery" } }, "Mystery"],
      [{ model: { ...base.model, type: "Mystery" } }, "Mystery"],
      [{ model: { ...base.model, dropout: 0.1 } }, "dropout"],
      [
        { pre_tokenizer: { type: "Split", pattern: { Regex: "(?<n>a)\\g<n>" }, behavior: "Isolated", invert: false } },
        "expression",
      ],
      [
        {
          decoder: {
            type: "Sequence",
            decoders: [{ type: "Fuse" }, { type: "Replace", pattern: { Regex: "a+" }, content: "" }],
          },
        },
        "Replace",
      ],
    ];
    for (const [change, name] of changes) {
      const error = await failure(open({ ...base, ...change }));
      expect(error.code, name).to.equal("ERR_MEMFORMER_DATA");
      expect(error.message).to.include("cannot be used").and.include(name);
    }
  });

  it("say which text they cannot encode", async () => {
    const tokenizer = await open({ ...wordLevelJson, model: { ...wordLevelJson.model, unk_token: "[GONE]" } });
    const error = await failure(Promise.resolve().then(() => tokenizer.encode("café au lait")));
    expect(error.code).to.equal("ERR_MEMFORMER_DATA");
    expect(error.message).to.include('"au"');
  });

  describe("take time by the length of runs without a boundary", () => {
    const runs: [string, string][] = [
      ["spaces", " "],
      ["letters", "A"],
      ["é", "é"],
      ["digits", "7"],
      ["emoji", "😀"],
      ["bases", "GATTACA"],
      ["marks", "-=+"],
    ];
    for (const [label, unit] of runs) {
      it(label, async function () {
        this.timeout(120_000);
        for (const tokenizer of [
          await openTokenizer("gpt2"),
          await open(byteLevelJson([])),
          await open(fused),
          await openTokenizer("bytes"),
        ]) {
          const text = unit.repeat(Math.ceil(200_000 / unit.length));
          const began = performance.now();
          const ids = tokenizer.encode(text);
          expect(performance.now() - began).to.be.below(10_000);
          if (tokenizer.name.startsWith("json") && tokenizer.vocabulary < 200) continue; // what it does not know is lost
          expect(tokenizer.decode(ids) === text).to.equal(true);
        }
      });
    }
  });
});
