import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { openTokenizer, pixels, type Tokenizer } from "../lib/data/index.ts";
import { addedToken, byteLevelJson } from "./support/tokenizers.ts";
import { failure } from "./support/failure.ts";

const text = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.string({ unit: "grapheme" }),
  fc.constantFrom("\ufeffx", "naïve 😀\r\n\f"),
);

const tinyJson = (specials: { content: string; id: number }[]): string =>
  JSON.stringify(byteLevelJson(specials.map(({ id, content }) => addedToken(id, content))));

describe("tokenizers", () => {
  let folder: string;
  let json: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
    json = join(folder, "tokenizer.json");
    writeFileSync(json, tinyJson([]));
  });
  after(() => rmSync(folder, { recursive: true }));

  const specs: [string, () => string][] = [
    ["bytes", () => "bytes"],
    ["gpt2", () => "gpt2"],
    ["a tokenizer.json", () => json],
  ];
  for (const [label, spec] of specs) {
    describe(label, () => {
      let tokenizer: Tokenizer;
      before(async () => {
        tokenizer = await openTokenizer(spec());
      });

      it("gives back the text it was given", () => {
        fc.assert(
          fc.property(text, (written) => {
            expect(tokenizer.decode(tokenizer.encode(written))).to.equal(written);
          }),
          { numRuns: 300 },
        );
      });

      it("decodes token by token to the same text, never splitting a character", () => {
        fc.assert(
          fc.property(text, (written) => {
            const decoder = tokenizer.decoder();
            const pieces = [...tokenizer.encode(written)].map((token) => decoder.push([token]));
            pieces.push(decoder.end());
            expect(pieces.join("")).to.equal(written);
            if (!written.includes("\ufffd")) expect(pieces.join("|")).not.to.include("\ufffd");
          }),
          { numRuns: 300 },
        );
      });

      it("keeps ids below its vocabulary, and BOS out of ordinary text", () => {
        const tokens = tokenizer.encode("the <|endoftext|> and 😀");
        expect(Math.max(...tokens)).to.be.below(tokenizer.vocabulary);
        expect([...tokens]).not.to.include(tokenizer.bos);
      });

      it("decodes BOS to nothing and refuses ids outside the vocabulary", async () => {
        expect(tokenizer.decode([tokenizer.bos])).to.equal("");
        for (const token of [-1, tokenizer.vocabulary, 0.5]) {
          const error = await failure(() => tokenizer.decode([token]));
          expect(error.code).to.equal("ERR_MEMFORMER_TOKEN_RANGE");
          expect(error.message)
            .to.include(String(token))
            .and.include(String(tokenizer.vocabulary - 1));
        }
      });

      it("is opened again by its spec under the same name", async () => {
        expect((await openTokenizer(tokenizer.spec)).name).to.equal(tokenizer.name);
      });
    });
  }

  it("have the vocabularies and BOS of their kind", async () => {
    const facts = ({ vocabulary, bos }: Tokenizer): number[] => [vocabulary, bos];
    expect(facts(await openTokenizer("bytes"))).to.eql([257, 256]);
    expect(facts(await openTokenizer("gpt2"))).to.eql([50257, 50256]);
    expect(facts(await openTokenizer(json))).to.eql([259, 258]);
  });

  it("encode as GPT-2 does", async () => {
    const gpt2 = await openTokenizer("gpt2");
    expect([...gpt2.encode("Hello world")]).to.eql([15496, 995]);
  });

  it("merge as a tokenizer.json says, and take BOS from its special tokens", async () => {
    const path = join(folder, "special.json");
    writeFileSync(
      path,
      tinyJson([
        { content: "<s>", id: 258 },
        { content: "</s>", id: 259 },
      ]),
    );
    const tokenizer = await openTokenizer(path);
    expect([tokenizer.vocabulary, tokenizer.bos]).to.eql([260, 258]);
    expect([...tokenizer.encode("the")]).to.eql([257]);
    expect(tokenizer.name)
      .to.match(/^json:[0-9a-f]{12}$/)
      .and.not.equal((await openTokenizer(json)).name);
  });

  it("finish a cut character with U+FFFD at the end", async () => {
    for (const spec of ["bytes", "gpt2", json]) {
      const tokenizer = await openTokenizer(spec);
      const decoder = tokenizer.decoder();
      const [first] = tokenizer.encode("é".normalize()).length > 1 ? tokenizer.encode("é") : tokenizer.encode("😀");
      expect(decoder.push([first!])).to.equal("");
      expect(decoder.end()).to.match(/^\ufffd+$/);
      expect(decoder.push(tokenizer.encode("a")) + decoder.end()).to.equal("a");
    }
  });

  it("of pixels speak in levels, and refuse what is none", async () => {
    expect([...pixels.encode("0 255\n17")]).to.eql([0, 255, 17]);
    const error = await failure(() => pixels.encode("0 256"));
    expect(error).to.include({ code: "ERR_MEMFORMER_DATA" });
    expect(error.message).to.include('"256"');
  });

  it("that are unknown, absent or no tokenizer are refused in words", async () => {
    const unknown = await failure(async () => openTokenizer("gpt-2"));
    expect(unknown.code).to.equal("ERR_MEMFORMER_CONFIG");
    expect(unknown.message).to.include('did you mean "gpt2"?');
    const absent = await failure(async () => openTokenizer(join(folder, "absent.json")));
    expect(absent.code).to.equal("ERR_MEMFORMER_IO");
    expect(absent.message).to.include("absent.json cannot be read");
    for (const content of ["{", "[]", "null", '{"model":{"type":"BPE"}}']) {
      const path = join(folder, "broken.json");
      writeFileSync(path, content);
      const broken = await failure(async () => openTokenizer(path));
      expect(broken.code, content).to.equal("ERR_MEMFORMER_DATA");
      expect(broken.message).to.include("broken.json is not a tokenizer.json");
    }
  });
});
