import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { openTokenizer, type Tokenizer } from "../lib/data/index.ts";
import reference from "./fixtures/tokenizers/models.json" with { type: "json" };

describe(`small tokenizers give what Python's tokenizers ${reference.tokenizers} gives:`, () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
  });
  after(() => rmSync(folder, { recursive: true }));

  for (const [number, { name, file, ids, decoded }] of reference.cases.entries()) {
    describe(name, () => {
      let tokenizer: Tokenizer;
      before(async () => {
        const path = join(folder, `tokenizer-${number}.json`);
        writeFileSync(path, JSON.stringify(file));
        tokenizer = await openTokenizer(path);
      });

      for (const [i, text] of reference.texts.entries()) {
        it(JSON.stringify(text.slice(0, 40)), () => {
          expect([...tokenizer.encode(text)]).to.eql(ids[i]);
          expect(tokenizer.decode(ids[i]!)).to.equal(decoded[i]);
        });
      }

      it("in parts as in one", () => {
        const long = reference.texts.join("\n").repeat(3);
        expect([...tokenizer.encodeParts!(long)].flatMap((part) => [...part])).to.eql([...tokenizer.encode(long)]);
      });

      it("one by one what it gives for the whole, for any ids", () => {
        const id = fc.nat(tokenizer.vocabulary - 1);
        fc.assert(
          fc.property(fc.array(fc.array(id, { maxLength: 4 }), { maxLength: 12 }), (pieces) => {
            const decoder = tokenizer.decoder();
            const texts = [...pieces.map((piece) => decoder.push(piece)), decoder.end()];
            expect(texts.join("")).to.equal(tokenizer.decode(pieces.flat()));
            expect(texts.every((text) => !/\p{Surrogate}/u.test(text))).to.equal(true);
          }),
          { numRuns: 200 },
        );
      });
    });
  }
});
