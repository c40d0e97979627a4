import { expect } from "chai";
import {
  evaluate,
  evaluationPass,
  Memformer,
  openTokenizer,
  sampler,
  Session,
  Tensor,
  tokensInMemory,
  TokenStream,
  Trainer,
  type GenerateOptions,
  type Tokenizer,
} from "../lib/index.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";

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

  it("without a seed draws anew each time, and tells by what seed", async () => {
    using session = await Session.open(model);
    expect(session.lastSeed).to.equal(undefined);
    await session.read("Once upon a time");
    let first = "";
    for await (const piece of session.generate({ maxTokens: 30 })) first += piece;
    const seed = session.lastSeed!;
    expect(seed).to.be.within(0, 2 ** 53 - 1);
    expect(await generate({ maxTokens: 30, seed })).to.equal(first);
    expect(await generate({ maxTokens: 30 })).to.not.equal(first);
    const logits = new Float32Array(1000),
      drawn = Array.from({ length: 4 }, () => sampler()(logits));
    expect(new Set(drawn).size).to.be.above(1);
    expect(sampler({ seed: sampler().seed }).seed).to.be.within(0, 2 ** 53 - 1);
  });

  it("refuses options that are unknown or out of range, before anything is drawn", async () => {
    const wrong: [object, RegExp][] = [
      [{ max_tokens: 3 }, /no option "max_tokens"; did you mean "maxTokens"\?/],
      [{ top_k: 3 }, /did you mean "topK"\?/],
      [{ maxTokens: -5 }, /maxTokens: .*got -5/],
      [{ maxTokens: NaN }, /maxTokens: .*got NaN/],
      [{ maxTokens: 2.5 }, /maxTokens: .*got 2.5/],
      [{ seed: -1 }, /seed/],
      [{ seed: 1.5 }, /seed/],
      [{ seed: NaN }, /seed/],
      [{ seed: "x" }, /seed/],
      [{ seed: 2 ** 53 }, /seed/],
      [{ temperature: "hot" }, /temperature: .*got "hot"/],
      [{ signal: {} }, /signal: expected an AbortSignal/],
    ];
    for (const [options, message] of wrong) {
      const error = await failure(generate(options));
      expect(error.code, JSON.stringify(options)).to.equal("ERR_MEMFORMER_CONFIG");
      expect(error.message).to.match(message);
    }
  });

  it("never draws an id that the tokenizer has no text for", async () => {
    await using padded = await tinyModel({ vocabulary: 512, bos: 256, precision: "float32" });
    await perturb(padded, 0.2);
    using session = await Session.open(padded);
    await session.read("Hello");
    let tokens = 0;
    for await (const piece of session.generate({ maxTokens: 200, seed: 1, temperature: 2 })) tokens += piece.length;
    expect(tokens).to.be.above(20);
  });

  it("never draws an id in a gap of the tokenizer's vocabulary", async () => {
    const tokenizer: Tokenizer = {
      ...(await openTokenizer("bytes")),
      isToken: (id) => id === 256 || (id >= 0x41 && id < 0x51),
    };
    for (const temperature of [0, 2]) {
      using session = await Session.open(model, tokenizer);
      await session.read([0x41]);
      let text = "";
      for (let seed = 0; text.length < 50 && seed < 50; seed++) {
        for await (const piece of session.generate({ maxTokens: 50, seed, temperature })) text += piece;
      }
      expect(text).to.match(/^[A-P]+$/);
    }
  });

  it("fails, and takes nothing in, when the model's logits are not finite", async () => {
    await using broken = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    const { name, shape } = broken.parameters.find((parameter) => parameter.name.includes("embedding"))!;
    using weights = Tensor.from(new Float32Array(shape.reduce((a, b) => a * b)).fill(NaN), shape);
    broken.assign(name, weights);
    using session = await Session.open(broken);
    await session.read("Hello");
    for (const temperature of [0, 1]) {
      const error = await failure(session.generate({ temperature }).next());
      expect(error.code).to.equal("ERR_MEMFORMER_NOT_FINITE");
    }
    expect(session.pending).to.equal(5);
  });

  it("leaves the event loop alone while it draws from a large vocabulary", async () => {
    await using large = await tinyModel({ vocabulary: 50_257, bos: 50_256, precision: "float32" });
    using session = await Session.open(large);
    const before = performance.eventLoopUtilization();
    for await (const piece of session.generate({ maxTokens: 30, seed: 1 })) void piece;
    expect(performance.eventLoopUtilization(before).active / 30, "milliseconds a token").to.be.below(10);
  });

  it("remembers what it made as if it had read it", async () => {
    using one = await Session.open(model),
      two = await Session.open(model);
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
    expect([...(await one.logits())]).to.deep.equal([...(await two.logits())]);
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
      for await (const piece of session.generate({
        maxTokens: 1000,
        temperature: 2,
        seed: 1,
        signal: controller.signal,
      })) {
        void piece;
        if (++pieces === 3) controller.abort(new Enough());
      }
    };
    expect(await failure(work())).to.be.instanceOf(Enough);
    expect((await session.logits()).length).to.equal(257);
  });
});

describe("a model that was trained to end", function () {
  this.timeout(120_000);

  it("ends where a document does, and one that was not does not", async () => {
    const tokenizer = await openTokenizer("bytes"),
      told = "A fable.";
    const lengths = async (ends: boolean): Promise<number> => {
      await using small = await Memformer.create({ preset: "tiny", width: 32, dropout: 0, device: "cpu", seed: 3 });
      const source = tokensInMemory(
        Array.from({ length: 8 }, () => tokenizer.encode(told)),
        tokenizer,
      );
      using trainer = new Trainer(small, { steps: 120, horizon: 1, learningRate: 1e-2, warmup: 5 });
      for await (const { step } of trainer.run(new TokenStream(source, { lanes: 4, segmentLength: 16, ends })))
        void step;
      using session = await small.session();
      let words = "";
      for await (const piece of session.generate({ maxTokens: 30, temperature: 0 })) words += piece;
      expect(words.startsWith(told)).to.be.true;
      return session.pending;
    };
    expect(await lengths(true)).to.equal(told.length);
    expect(await lengths(false)).to.not.equal(told.length);
  });

  it("refuses segments longer than its own", async () => {
    await using small = await Memformer.create({ preset: "tiny", width: 32, device: "cpu" });
    const tokenizer = await openTokenizer("bytes"),
      source = tokensInMemory([tokenizer.encode("a text of some length, and more")], tokenizer);
    for (const work of [
      async () => evaluate(small, evaluationPass(source, { lanes: 1, segmentLength: 17 })),
      async () =>
        new Trainer(small, { steps: 1, horizon: 1 })
          .run(new TokenStream(source, { lanes: 1, segmentLength: 17 }))
          .next(),
    ]) {
      const error = await failure(work());
      expect(error.code).to.equal("ERR_MEMFORMER_SHAPE");
      expect(error.message).to.include("17 tokens, more than the 16");
    }
    await evaluate(small, evaluationPass(source, { lanes: 1, segmentLength: 9 }));
  });
});

describe("a sampler", () => {
  const logits = [0, Math.log(2), Math.log(4), Math.log(1), -Infinity]; // shares 1/8, 2/8, 4/8, 1/8, 0

  function shares(options: Parameters<typeof sampler>[0], draws = 20_000): number[] {
    const choose = sampler(options),
      counts = new Array<number>(logits.length).fill(0);
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

  it("refuses logits that are not finite", () => {
    for (const bad of [[1, NaN, 5], [NaN, NaN], [1, Infinity], [-Infinity], []]) {
      for (const temperature of [0, 1]) {
        expect(() => sampler({ temperature })(bad))
          .to.throw(/logits/)
          .with.property("code", "ERR_MEMFORMER_NOT_FINITE");
      }
    }
  });

  it("refuses options that it does not know, and those out of range by name", () => {
    const wrong = [
      { temperature: -1 },
      { temperature: NaN },
      { topK: 0 },
      { topK: 1.5 },
      { topP: 0 },
      { topP: 1.1 },
      { top_k: 3 },
      { seed: -1 },
      { seed: 1.5 },
      { seed: NaN },
      { seed: "x" as never },
    ];
    for (const options of wrong) {
      expect(() => sampler(options))
        .to.throw(new RegExp(Object.keys(options)[0]!))
        .with.property("code", "ERR_MEMFORMER_CONFIG");
    }
  });
});
