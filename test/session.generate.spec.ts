import { expect } from "chai";
import { sampler, Session, Tensor, type GenerateOptions, type Memformer } from "../lib/index.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { failure } from "./support/runs.ts";

let model: Memformer;

async function generate(options: GenerateOptions, prompt = "Once upon a time"): Promise<string> {
  using session = await Session.open(model);
  await session.read(prompt);
  let words = "";
  for await (const piece of session.generate(options)) words += piece;
  return words;
}

describe("generation", function () {
  this.timeout(60_000);
  before(async () => {
    model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    await perturb(model, 0.2);
  });
  after(async () => model.dispose());

  it("without temperature is the same each time, whatever the seed, and so is topK 1", async () => {
    const greedy = await generate({ maxTokens: 30, temperature: 0 });
    expect(greedy).to.not.equal("");
    expect(await generate({ maxTokens: 30, temperature: 0, seed: 7 })).to.equal(greedy);
    expect(await generate({ maxTokens: 30, topK: 1, seed: 9 })).to.equal(greedy);
    expect(await generate({ maxTokens: 30, topP: 1e-9, seed: 9 })).to.equal(greedy);
  });

  it("follows its seed", async () => {
    const first = await generate({ maxTokens: 30, seed: 1 });
    expect(await generate({ maxTokens: 30, seed: 1 })).to.equal(first);
    expect(await generate({ maxTokens: 30, seed: 2 })).to.not.equal(first);
  });

  it("remembers what it made as if it had read it", async () => {
    using one = await Session.open(model), two = await Session.open(model);
    await one.read("Once upon");
    await two.read("Once upon");
    const tokens: number[] = [];
    const choose = sampler({ temperature: 0 });
    for (let i = 0; i < 15; i++) {
      const token = choose(await two.logits());
      tokens.push(token);
      await two.read([token]);
    }
    let words = "";
    for await (const piece of one.generate({ maxTokens: 15, temperature: 0 })) words += piece;
    expect(words).to.equal(two.tokenizer.decode(tokens));
    expect([...await one.logits()]).to.deep.equal([...await two.logits()]);
  });

  it("makes as many tokens as asked for, none for 0, and ends where a document ends", async () => {
    expect(await generate({ maxTokens: 0 })).to.equal("");
    using session = await Session.open(model);
    const before = session.pending;
    for await (const piece of session.generate({ maxTokens: 4, seed: 1 })) void piece;
    expect(session.pending - before).to.equal(4);
    const logits = new Float32Array(257).fill(-100);
    logits[model.config.bos] = 100;
    model.logits = () => Tensor.from(logits, [1, 257]);
    let words = "";
    try {
      for await (const piece of session.generate({ maxTokens: 1000 })) words += piece;
    } finally {
      Reflect.deleteProperty(model, "logits");
    }
    expect(words).to.equal("");
    expect(session.pending - before).to.equal(4);
  });

  it("stops at a signal, with its reason, between tokens", async () => {
    using session = await Session.open(model);
    const controller = new AbortController();
    class Enough extends Error {}
    const work = async (): Promise<void> => {
      let pieces = 0;
      for await (const piece of session.generate({ maxTokens: 1000, temperature: 2, signal: controller.signal })) {
        void piece;
        if (++pieces === 3) controller.abort(new Enough());
      }
    };
    expect(await failure(work())).to.be.instanceOf(Enough);
    expect((await session.logits()).length).to.equal(257);
  });
});

describe("a sampler", () => {
  const logits = [0, Math.log(2), Math.log(4), Math.log(1), -Infinity]; // shares 1/8, 2/8, 4/8, 1/8, 0

  function shares(options: Parameters<typeof sampler>[0], draws = 20_000): number[] {
    const choose = sampler(options), counts = new Array<number>(logits.length).fill(0);
    for (let i = 0; i < draws; i++) counts[choose(logits)]!++;
    return counts.map((count) => count / draws);
  }

  function expectShares(found: readonly number[], wanted: readonly number[]): void {
    for (const [i, share] of found.entries()) {
      expect(share, `token ${i}`).to.be.closeTo(wanted[i]!, wanted[i] === 0 ? 0 : 0.015);
    }
  }

  it("draws each token as often as its probability says", () => {
    expectShares(shares({ seed: 1 }), [1 / 8, 2 / 8, 4 / 8, 1 / 8, 0]);
    expectShares(shares({ seed: 1, temperature: 0.5 }), [1 / 22, 4 / 22, 16 / 22, 1 / 22, 0]);
  });

  it("draws from the k likeliest, or from the fewest that hold the share asked for", () => {
    expectShares(shares({ seed: 2, topK: 2 }), [0, 2 / 6, 4 / 6, 0, 0]);
    expectShares(shares({ seed: 3, topP: 0.5 }), [0, 0, 1, 0, 0]);
    expectShares(shares({ seed: 3, topP: 0.51 }), [0, 2 / 6, 4 / 6, 0, 0]);
    expectShares(shares({ seed: 4, topP: 0.7, topK: 3 }), [0, 2 / 6, 4 / 6, 0, 0]);
  });

  it("refuses options out of range by name", () => {
    const wrong = [{ temperature: -1 }, { temperature: NaN }, { topK: 0 }, { topK: 1.5 }, { topP: 0 }, { topP: 1.1 }];
    for (const options of wrong) {
      expect(() => sampler(options)).to.throw(new RegExp(Object.keys(options)[0]!))
        .with.property("code", "ERR_MEMFORMER_CONFIG");
    }
  });
});
