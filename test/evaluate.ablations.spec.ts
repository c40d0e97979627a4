import { expect } from "chai";
import {
  applyOperator,
  evaluate,
  evaluationPass,
  memoryUsage,
  openTokenizer,
  PADDING,
  Random,
  RecallStream,
  synchronize,
  Tensor,
  tidy,
  tokensInMemory,
  type Ablation,
  type EvaluateOptions,
  type Memformer,
  type Segment,
  type State,
  type TokenStream,
} from "../lib/index.ts";
import { flagShape } from "../lib/model/state.ts";
import { numbers, perturb, tinyModel, variants } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { runModel, train } from "./support/runs.ts";

/** Documents of so many random bytes each, read once from end to end in lanes. */
async function pass(model: Memformer, lengths: readonly number[], lanes = 3): Promise<TokenStream> {
  const random = new Random(2);
  const documents = lengths.map((length) => Int32Array.from({ length }, () => 97 + random.below(26)));
  const source = tokensInMemory(documents, await openTokenizer("bytes"));
  return evaluationPass(source, { lanes, segmentLength: model.config.segmentLength });
}

async function reader(options: Parameters<typeof tinyModel>[0] = {}): Promise<Memformer> {
  const model = await tinyModel({ vocabulary: 257, bos: 256, ...options });
  await perturb(model, 0.2);
  return model;
}

const ablationNames = ["initial", "zeroed", "shuffled", "frozen"] as const;

/** Nats of the whole and of every ablation, a forward pass for each segment and memory. */
async function byHand(model: Memformer, stream: TokenStream): Promise<Record<Ablation | "whole", number>> {
  const nats = { whole: 0, initial: 0, zeroed: 0, shuffled: 0, frozen: 0 },
    { lanes } = stream,
    { bos, architecture } = model.config;
  let state = model.initialState(lanes),
    held = state,
    holds = new Uint8Array(lanes);
  for (let segment = await stream.next(); segment !== undefined; segment = await stream.next()) {
    const { reset, source, target, length, batch } = segment,
      of = async (memory: State, restart: number | Uint8Array = reset): Promise<number> => {
        const flags = typeof restart === "number" ? new Uint8Array(batch).fill(restart) : restart;
        const { loss, count } = model.forward(model.upload({ ...segment, reset: flags }), memory);
        return (await loss.item()) * (await count.item());
      };
    nats.whole += await of(state);
    nats.initial += await of(state, 1);
    nats.zeroed += await of(
      state.map((part) => applyOperator("aten::zeros_like", part)),
      0,
    );
    nats.shuffled += await of(state.map((part) => applyOperator("aten::roll", part, [1], [0])));
    nats.frozen += await of(held);
    const next = model.forward(model.upload(segment), state).state;
    const before = Uint8Array.from(holds, (flag, b) => (flag && !reset[b] ? 1 : 0)),
      mask = (i: number): Tensor => Tensor.from(before, flagShape(lanes, model.stateLayout[i]!), "bool");
    held = next.map((part, i) => applyOperator("aten::where.self", mask(i), held[i]!, part));
    // Text: anything real but BOS in what the memory is written from. Without an encoder it is the target without the
    // last, behind one token.
    holds = Uint8Array.from(before, (flag, b) => {
      const read = architecture.startsWith("encoder")
        ? source.subarray(b * length, (b + 1) * length)
        : target.subarray(b * length, (b + 1) * length - 1);
      return flag === 1 || read.some((token) => token !== PADDING && token !== bos) ? 1 : 0;
    });
    state = next;
  }
  return nats;
}

const lengths = [40, 7, 23, 61, 12, 30];
const total = lengths.reduce((sum, length) => sum + length, 0);

describe("evaluation", function () {
  this.timeout(120_000);

  it("scores every token of the text once, as a hand-written loop does", async () => {
    for (const architecture of variants) {
      await using model = await reader({ architecture });
      const found = await evaluate(model, await pass(model, lengths), { bytes: total });
      const stream = await pass(model, lengths);
      let state = model.initialState(3),
        nats = 0,
        tokens = 0;
      for (let segment = await stream.next(); segment !== undefined; segment = await stream.next()) {
        const made = tidy(() => model.forward(model.upload(segment), state));
        const [[loss], [count]] = (await numbers([made.loss, made.count])) as [number[], number[]];
        nats += loss! * count!;
        tokens += count!;
        for (const tensor of state) tensor.dispose();
        state = made.state;
      }
      expect(tokens).to.equal(total);
      expect(found.tokens).to.equal(total);
      expect(found.nats).to.be.closeTo(nats, 1e-9 * nats);
      expect(found.perplexity).to.be.closeTo(Math.exp(nats / total), 1e-6);
      expect(found.bitsPerToken).to.be.closeTo(nats / Math.LN2 / total, 1e-9);
      expect(found.bitsPerByte).to.equal(found.bitsPerToken);
    }
  });

  it("does not depend on the lanes: the same documents, another batch", async () => {
    await using model = await reader();
    const scores = await Promise.all(
      [1, 2, 6].map(async (lanes) => evaluate(model, await pass(model, lengths, lanes))),
    );
    for (const { nats, tokens } of scores) {
      expect(tokens).to.equal(total);
      expect(nats).to.be.closeTo(scores[0]!.nats, 1e-9 * scores[0]!.nats);
    }
    expect(Object.keys(scores[0]!.ablations)).to.deep.equal(["initial", "zeroed", "frozen"]);
    expect(Object.keys(scores[1]!.ablations)).to.deep.equal(["initial", "zeroed", "shuffled", "frozen"]);
  });

  it("is the same twice, and leaves the model and the memory in use as they were", async () => {
    await using model = await reader({ dropout: 0.5 });
    const once = await evaluate(model, await pass(model, lengths));
    await synchronize();
    const before = memoryUsage().hostBytes;
    const again = await evaluate(model, await pass(model, lengths));
    await synchronize();
    expect(memoryUsage().hostBytes).to.be.at.most(before);
    expect({ ...again, seconds: 0 }).to.deep.equal({ ...once, seconds: 0 });
  });

  it("stops after the segments asked for, or at a signal with its reason", async () => {
    await using model = await reader();
    const few = await evaluate(model, await pass(model, lengths), { segments: 2, ablations: [] });
    expect(few.tokens).to.equal(3 * 6 * 2 - 5); // the second document ends a token into its second segment
    expect(few.ablations).to.deep.equal({});
    expect(few.bitsPerByte).to.be.NaN;
    class Enough extends Error {}
    const controller = new AbortController();
    const stream = await pass(model, lengths),
      next = stream.next.bind(stream);
    let segments = 0;
    stream.next = async () => {
      if (++segments === 3) controller.abort(new Enough());
      return next();
    };
    expect(await failure(evaluate(model, stream, { signal: controller.signal }))).to.be.instanceOf(Enough);
    expect(segments).to.equal(3);
  });
});

describe("evaluation with weights that are not numbers", () => {
  it("ends with NAN_LOSS and names the memory and the segments", async () => {
    await using model = await reader();
    const { shape } = model.parameters[0]!;
    using nan = Tensor.from(new Float64Array(shape.reduce((a, b) => a * b)).fill(NaN), shape);
    model.assign(model.parameters[0]!.name, nan);
    const error = await failure(evaluate(model, await pass(model, lengths)));
    expect(error.code).to.equal("ERR_MEMFORMER_NAN_LOSS");
    expect(error.details).to.deep.include({ memory: "whole", segment: 0 });
  });
});

describe("evaluation of nothing", () => {
  it("is refused: a stream at its end, one of padding alone, no segments asked for", async () => {
    await using model = await reader();
    const { segmentLength: length } = model.config;
    const none = new Int32Array(3 * length).fill(PADDING);
    const padding: Segment = {
      batch: 3,
      length,
      source: none,
      target: none,
      reset: new Uint8Array(3),
    };
    const some = async (segments: number): Promise<TokenStream> => {
      const stream = await pass(model, lengths);
      stream.next = async () => (segments-- > 0 ? padding : undefined);
      return stream;
    };
    await evaluate(model, await pass(model, lengths));
    await synchronize();
    const before = memoryUsage().hostBytes;
    for (const [there, segments, read] of [
      [0, 9, 0],
      [2, 9, 2],
      [5, 0, 0],
    ] as const) {
      const error = await failure(evaluate(model, await some(there), { segments }));
      expect(error.code).to.equal("ERR_MEMFORMER_DATA");
      expect(error.message).to.include(`nothing to score: ${read} segment(s)`);
    }
    await synchronize();
    expect(memoryUsage().hostBytes).to.be.at.most(before);
  });
});

describe("an ablation of the memory", function () {
  this.timeout(120_000);

  it("changes the score of a model that reads its memory", async () => {
    for (const architecture of variants) {
      await using model = await reader({ architecture });
      const { nats, ablations } = await evaluate(model, await pass(model, lengths));
      for (const name of ablationNames) {
        expect(Math.abs(ablations[name]!.nats - nats), `${architecture}, ${name}`).to.be.above(1e-6 * nats);
      }
    }
  });

  it("is none where documents have one segment: frozen is the whole, shuffled too", async () => {
    await using model = await reader();
    const { nats, ablations } = await evaluate(model, await pass(model, [6, 3, 5, 6, 1, 2, 6], 2));
    expect(ablations.frozen!.nats).to.equal(nats);
    expect(ablations.shuffled!.nats).to.equal(nats);
    expect(ablations.zeroed!.nats).to.not.equal(nats);
  });

  it("frozen holds the memory after the first segment of text, not the one after BOS", async () => {
    // With an encoder the second segment of a document is the first to read text, and the fourth to meet a memory of
    // more; a decoder reads what it predicts, one segment earlier.
    for (const [architecture, segments] of [
      ["encoder-decoder", 3],
      ["encoder", 3],
      ["decoder", 2],
    ] as const) {
      await using model = await reader({ architecture });
      const same = await evaluate(model, await pass(model, [6 * segments, 9, 11], 3));
      expect(same.ablations.frozen!.nats, architecture).to.equal(same.nats);
      const longer = await evaluate(model, await pass(model, [6 * segments + 6, 9, 11], 3));
      expect(longer.ablations.frozen!.nats, architecture).to.not.equal(longer.nats);
    }
  });

  it("initial scores as documents cut into single segments would be, with the text before as their source", async () => {
    for (const architecture of variants) {
      await using model = await reader({ architecture });
      const { ablations } = await evaluate(model, await pass(model, lengths));
      const stream = await pass(model, lengths),
        next = stream.next.bind(stream);
      stream.next = async () => {
        const segment = await next();
        return segment === undefined ? undefined : { ...segment, reset: segment.reset.slice().fill(1) };
      };
      const restarted = await evaluate(model, stream, { ablations: [] });
      expect(ablations.initial!.nats, architecture).to.be.closeTo(restarted.nats, 1e-12 * restarted.nats);
    }
  });

  it("is each what a loop written by hand makes of the memory", async () => {
    for (const architecture of variants) {
      await using model = await reader({ architecture });
      const stream = await pass(model, lengths);
      Object.assign(stream, { ended: undefined }); // rows of lanes that have ended stay, so that the row above is the same
      const expected = await byHand(model, await pass(model, lengths)),
        found = await evaluate(model, stream);
      expect(found.nats).to.be.closeTo(expected.whole, 1e-12 * expected.whole);
      for (const name of ablationNames) {
        expect(found.ablations[name]!.nats, `${architecture}, ${name}`).to.be.closeTo(
          expected[name],
          1e-12 * expected[name],
        );
      }
    }
  });

  it("drops the rows of lanes that have ended, and scores the same without them", async () => {
    const long = [200, 7, 20, 61, 12, 30, 9, 13];
    for (const architecture of ["encoder-decoder", "decoder"] as const) {
      await using model = await reader({ architecture });
      const rows: number[] = [],
        score = model.score.bind(model);
      model.score = (segments, ...rest) => {
        rows.push(segments[0]!.batch);
        return score(segments, ...rest);
      };
      const dropping = await evaluate(model, await pass(model, long, 8));
      expect(rows[0]).to.equal(8);
      expect(rows.at(-1), "the row above stays, of a lane that has ended").to.equal(2);
      rows.length = 0;
      expect((await evaluate(model, await pass(model, long, 8), { ablations: ["frozen"] })).nats).to.be.closeTo(
        dropping.nats,
        1e-12 * dropping.nats,
      );
      expect(rows.at(-1)).to.equal(1);
      rows.length = 0;
      const stream = await pass(model, long, 8);
      Object.assign(stream, { ended: undefined });
      const whole = await evaluate(model, stream);
      expect(new Set(rows)).to.deep.equal(new Set([8]));
      expect(dropping.tokens).to.equal(whole.tokens);
      expect(dropping.nats).to.be.closeTo(whole.nats, 1e-12 * whole.nats);
      for (const name of ["initial", "zeroed", "frozen"] as const) {
        const nats = whole.ablations[name]!.nats;
        expect(dropping.ablations[name]!.nats, `${architecture}, ${name}`).to.be.closeTo(nats, 1e-12 * nats);
      }
    }
  });

  it("does not depend on how many segments are scored at a time", async () => {
    for (const architecture of variants) {
      await using model = await reader({ architecture });
      const one = await evaluate(model, await pass(model, lengths));
      for (const segmentsPerStep of [2, 3, 100]) {
        const several = await evaluate(model, await pass(model, lengths), { segmentsPerStep });
        expect(several.tokens).to.equal(one.tokens);
        expect(several.nats).to.be.closeTo(one.nats, 1e-12 * one.nats);
        for (const name of ablationNames) {
          const nats = one.ablations[name]!.nats;
          expect(several.ablations[name]!.nats, `${architecture}, ${name}, ${segmentsPerStep}`).to.be.closeTo(
            nats,
            1e-12 * nats,
          );
        }
      }
    }
  });

  it("is refused under a name that there is not, with the nearest one; so is an option", async () => {
    await using model = await reader();
    const unknown = await failure(evaluate(model, await pass(model, lengths), { ablations: ["frozn" as Ablation] }));
    expect(unknown.code).to.equal("ERR_MEMFORMER_CONFIG");
    expect(unknown.message).to.include('did you mean "frozen"?');
    const option = await failure(evaluate(model, await pass(model, lengths), { segment: 3 } as EvaluateOptions));
    expect(option.code).to.equal("ERR_MEMFORMER_CONFIG");
    expect(option.message).to.include('did you mean "segments"?');
    for (const wrong of [{ segments: 1.5 }, { segments: -1 }, { segmentsPerStep: 0 }, { bytes: -1 }]) {
      expect((await failure(evaluate(model, await pass(model, lengths), wrong))).code, JSON.stringify(wrong)).to.equal(
        "ERR_MEMFORMER_CONFIG",
      );
    }
  });

  it("takes away what training put there: a recall model knows with its memory, and guesses without", async () => {
    const stream = (seed: number, lanes = 16) =>
      new RecallStream({ lanes, segmentLength: 8, keys: 4, fillers: 12, maxLag: 1, seed });
    await using model = await runModel({ architecture: "encoder", width: 32, feedForward: 64 });
    await train(model, { steps: 300, horizon: 2, learningRate: 5e-3, warmup: 20, weightDecay: 0 }, {}, stream(1));
    const { bitsPerToken, ablations } = await evaluate(model, stream(2), { segments: 20 });
    expect(bitsPerToken).to.be.below(0.5);
    for (const name of ["zeroed", "shuffled"] as const) {
      expect(ablations[name]!.bitsPerToken, name).to.be.above(bitsPerToken + 1);
    }
  });
});
