/** The examples of sessions run, and do what they say. */
import { expect } from "chai";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { tellAll } from "../examples/hundred-sessions.ts";
import { goOn, read } from "../examples/novel.ts";
import { openTokenizer, type Memformer } from "../lib/index.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { temporary } from "./support/runs.ts";

describe("examples of sessions", function () {
  this.timeout(60_000);
  let model: Memformer;
  before(async () => {
    model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    await perturb(model, 0.1);
  });
  after(async () => model.dispose());

  it("novel.ts reads a novel once, and goes on with it the second time as the first", async () => {
    const folder = await temporary();
    try {
      const novel = join(folder.path, "novel.txt"),
        file = join(folder.path, "novel.session"),
        tokenizer = await openTokenizer("bytes");
      await writeFile(novel, "It was a bright cold day in April. Naïve clocks — 🕐 — were striking.\n".repeat(400));
      const told: number[] = [],
        words: string[] = [];
      for (let round = 0; round < 2; round++) {
        const progress = (done: number, whole: number): void => void told.push(done / whole);
        using session = await read({ model, tokenizer, novel, file, progress });
        expect(session.position).to.equal((await stat(novel)).size);
        let text = "";
        for await (const piece of goOn(session, { maxTokens: 60, seed: 3 })) text += piece;
        words.push(text);
      }
      expect(words[1]).to.equal(words[0]).and.not.equal("");
      expect(told.at(-1)).to.equal(1);
      expect(told.length, "read once").to.be.below(8);
      expect((await readFile(file)).length).to.be.below(4096);
    } finally {
      await folder.remove();
    }
  });

  it("hundred-sessions.ts lets a hundred speak at once, each as it would alone", async () => {
    const told = await tellAll(model, 100, 12);
    expect(new Set(told.map(({ text }) => text)).size).to.be.above(50);
    for (const i of [0, 41, 99]) {
      using session = await model.session();
      await session.read(told[i]!.prompt);
      let text = "";
      for await (const piece of session.generate({ maxTokens: 12, seed: i, temperature: 0.8 })) text += piece;
      expect(told[i]!.text).to.equal(text);
    }
  });
});
