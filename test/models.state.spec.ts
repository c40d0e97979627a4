import { expect } from "chai";
import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import {
  ABLATIONS,
  AdamW,
  backward,
  bptt,
  checkpointing,
  evaluate,
  mrbp,
  Session,
  Tensor,
  tidy,
  Trainer,
  type EvaluatedModel,
  type GradientMethod,
  type Recurrence,
  type Segment,
  type SessionModel,
  type StatePart,
  type Tokenizer,
  type TrainOptions,
  type TrainStep,
  type WindowOptions,
} from "../lib/index.ts";
import { Counting, Stateless, type SmallOptions } from "./support/composed-models.ts";
import { numbers, perturb, randomWindow, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { contents, task, temporary } from "./support/runs.ts";

type Small = Stateless | Counting;
const models: Record<string, (options?: SmallOptions) => Promise<Small>> = {
  "a model without state": (options) => Stateless.create(options),
  "a model of a float and an int64 part": (options) => Counting.create(options),
};
const files = ["model.safetensors", "optimizer.safetensors", "state.safetensors", "trainer.json", "config.json"];
/** Of the task's 18 ids; it has no text. */
const tokenizer: Tokenizer = {
  name: "ids",
  spec: "ids",
  bos: 17,
  vocabulary: 18,
  encode: () => new Int32Array(0),
  decode: () => "",
  decoder: () => ({ push: () => "", end: () => "" }),
};
let folder: Awaited<ReturnType<typeof temporary>>;

async function segments(count: number, lanes = 4): Promise<Segment[]> {
  const stream = task(lanes),
    read: Segment[] = [];
  while (read.length < count) read.push(await stream.next());
  return read;
}

/** Losses, state and gradients of a window, as numbers. */
async function gathered(model: Small, method: GradientMethod, options: WindowOptions = {}): Promise<number[][]> {
  const window = await segments(5),
    start = model.initialState(4);
  model.zeroGradients();
  const { losses, counts, state, gradient } = tidy(() => {
    const uploaded = window.map((segment) => model.upload(segment));
    return method(model, uploaded, start, options);
  });
  const gradients = model.parameters.map(({ name }) => model.gradient(name));
  for (const tensor of start) tensor.dispose();
  return numbers([...losses, ...counts, ...state, ...gradient, ...gradients]);
}

function expectClose(found: number[][], exact: number[][], tolerance: number): void {
  expect(found.map(({ length }) => length)).to.deep.equal(exact.map(({ length }) => length));
  const [a, b] = [found.flat(), exact.flat()];
  a.forEach((value, i) => {
    expect(value).to.be.closeTo(b[i]!, tolerance * Math.max(1, Math.abs(b[i]!)));
  });
}

async function train(
  model: Small,
  options: TrainOptions,
  how: { checkpoints?: string; resume?: boolean } = {},
  lanes = 4,
): Promise<TrainStep[]> {
  using trainer = new Trainer(model, options);
  const steps: TrainStep[] = [];
  for await (const step of trainer.run(task(lanes), how)) steps.push(step);
  return steps;
}

async function weights(model: Small): Promise<number[][]> {
  return numbers(model.parameters.map(({ name }) => model.parameter(name)));
}

describe("a state of any layout", function () {
  this.timeout(120_000);
  beforeEach(async () => {
    folder = await temporary();
  });
  afterEach(async () => folder.remove());

  for (const [name, create] of Object.entries(models)) {
    it(`${name}: MRBP, with any number of segments per step, and checkpointing give the gradient of BPTT`, async () => {
      await using model = await create({ precision: "float64" });
      for (const options of [{}, { carry: 2 }, { microBatch: 3, weights: "doubling" }] as const) {
        const exact = await gathered(model, bptt, options);
        expect(Math.max(...exact.flat().map(Math.abs)), "numbers").to.be.above(1e-3);
        expectClose(await gathered(model, checkpointing, options), exact, 1e-12);
        for (const segmentsPerStep of [1, 2, 5])
          expectClose(await gathered(model, mrbp, { ...options, segmentsPerStep }), exact, 1e-12);
      }
    });

    it(`${name}: the gradient is that of finite differences`, async () => {
      await using model = await create({ precision: "float64" });
      const window = await segments(3);
      const loss = async (): Promise<number> => {
        using sum = tidy(() => {
          const uploaded = window.map((segment) => model.upload(segment));
          return mrbp(model, uploaded, model.initialState(4), { weights: [1, 0, 2] }).losses[2]!;
        });
        return sum.item();
      };
      for (const { name: parameter, shape } of model.parameters) {
        model.zeroGradients();
        tidy(() => {
          const uploaded = window.map((segment) => model.upload(segment));
          mrbp(model, uploaded, model.initialState(4), { weights: [0, 0, 1] });
        });
        const [gradient] = await numbers([model.gradient(parameter)]),
          [values] = await numbers([model.parameter(parameter)]);
        const at = gradient!.reduce((most, value, i) => (Math.abs(value) > Math.abs(gradient![most]!) ? i : most), 0);
        const moved = async (by: number): Promise<number> => {
          using value = Tensor.from(
            Float64Array.from(values!, (old, i) => (i === at ? old + by : old)),
            shape,
          );
          model.assign(parameter, value);
          return loss();
        };
        const difference = ((await moved(1e-5)) - (await moved(-1e-5))) / 2e-5;
        await moved(0);
        expect(gradient![at]!, parameter).to.be.closeTo(difference, 1e-7);
      }
    });

    it(`${name}: trains; 12 steps are 6 and 6 more, to the bit, and every file of the checkpoint`, async () => {
      const options = {
        steps: 12,
        horizon: 3,
        saveEvery: 6,
        keep: 5,
        learningRate: 0.05,
        warmup: 2,
        statePassing: 0.3,
      };
      const [whole, halves] = [join(folder.path, "whole"), join(folder.path, "halves")];
      await using one = await create();
      const straight = await train(one, options, { checkpoints: whole });
      expect(straight.at(-1)!.loss).to.be.below(straight[0]!.loss);
      await cp(whole, halves, { recursive: true });
      await rm(join(halves, "step-000012"), { recursive: true });
      await rm(join(halves, "last.json"));
      await using two = await create({ seed: 9 });
      const resumed = await train(two, options, { checkpoints: halves, resume: true });
      const facts = (steps: TrainStep[]) =>
        steps.slice(-6).map((step) => [step.step, step.loss, step.gradientNorm, step.memoryGradientNorm]);
      expect(facts(resumed)).to.deep.equal(facts(straight));
      expect(await weights(two)).to.deep.equal(await weights(one));
      const [last, again] = [join(whole, "step-000012"), join(halves, "step-000012")];
      expect(await contents(again, files)).to.deep.equal(await contents(last, files));
    });

    it(`${name}: evaluates, its state ablated too, however many segments a step scores`, async () => {
      await using model = await create();
      const { ablations, ...whole } = await evaluate(model, task(), { segments: 12, segmentsPerStep: 1 });
      expect(Object.keys(ablations)).to.have.members([...ABLATIONS]);
      const other = await evaluate(model, task(), { segments: 12, segmentsPerStep: 5 });
      expect(other.nats).to.equal(whole.nats);
      for (const ablation of ABLATIONS) {
        expect(other.ablations[ablation]!.nats, ablation).to.equal(ablations[ablation]!.nats);
        if (model.stateLayout.length === 0) expect(ablations[ablation]!.nats, ablation).to.equal(whole.nats);
        else expect(ablations[ablation]!.nats, ablation).to.not.equal(whole.nats);
      }
    });

    it(`${name}: AdamW moves what a backward pass reached, and drops the gradients`, async () => {
      await using model = await create();
      using optimizer = new AdamW(model);
      const before = await weights(model);
      const segment = (await segments(4)).at(-1)!;
      tidy(() => {
        const step = model.forward(model.upload(segment), model.initialState(4));
        backward([step.loss], [1]);
      });
      using norm = model.clipGradients(0);
      expect(await norm.item()).to.be.above(0);
      optimizer.step(0.01, norm);
      (await weights(model)).forEach((values, i) => {
        expect(values, model.parameters[i]!.name).to.not.deep.equal(before[i]);
      });
      using after = model.clipGradients(0);
      expect(await after.item()).to.equal(0);
    });
  }

  it("a state without gradient is carried over a window: no gradient back is not the window's end", async () => {
    await using model = await Counting.create({ precision: "float64" });
    const still: Recurrence = {
      stateLayout: model.stateLayout.map((part) => ({ ...part, differentiable: false })),
      advance: (...step) => model.advance(...step),
      forward: (segment, state) => model.forward(segment, state),
    };
    const window = await segments(4);
    const after = async (method: GradientMethod, segmentsPerStep: number): Promise<number[][]> => {
      const { state, gradient } = tidy(() => {
        const uploaded = window.map((segment) => model.upload(segment));
        return method(still, uploaded, model.initialState(4), { segmentsPerStep });
      });
      expect(gradient).to.deep.equal([]);
      return numbers(state);
    };
    const exact = await after(bptt, 4);
    expect(exact).to.have.length(2);
    for (const segmentsPerStep of [1, 3]) expect(await after(mrbp, segmentsPerStep)).to.deep.equal(exact);
  });

  for (const [name, create] of Object.entries(models)) {
    it(`${name}: a session goes on from its saved bytes, in a model of the same weights alone`, async () => {
      await using model = await create();
      await using twin = await create();
      await using other = await create({ seed: 3 });
      const text = Array.from({ length: 37 }, (_, i) => (5 * i + 2) % 17);
      using session = await Session.open(model, tokenizer);
      await session.read(text);
      const bytes = await session.save();
      using restored = await Session.restore(twin, bytes, tokenizer);
      expect(Buffer.from(await restored.save()).equals(bytes)).to.be.true;
      await session.read(text);
      await restored.read(text);
      expect(await restored.logits()).to.deep.equal(await session.logits());
      const error = await failure(Session.restore(other, bytes, tokenizer));
      expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
    });
  }

  it("a session of another layout is refused, in either version", async () => {
    const saved = async (model: SessionModel): Promise<Uint8Array> => {
      using session = await Session.open(model, tokenizer);
      return await session.save();
    };
    await using counting = await Counting.create();
    await using stateless = await Stateless.create();
    await using memformer = await tinyModel({ segmentLength: 8, vocabulary: 18, bos: 17 });
    const all: readonly SessionModel[] = [counting, stateless, memformer];
    for (const from of all) {
      const bytes = await saved(from);
      for (const to of all) {
        if (from === to) continue;
        const error = await failure(Session.restore(to, bytes, tokenizer));
        expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
        expect(error.message).to.match(/another model: its state is \S.*, expected \S/);
      }
    }
  });

  it("a checkpoint of another model, another layout or other lanes is refused before anything is copied", async () => {
    const [counting, stateless] = [join(folder.path, "counting"), join(folder.path, "stateless")];
    await using one = await Counting.create();
    await using two = await Stateless.create();
    await train(one, { steps: 1, horizon: 2 }, { checkpoints: counting });
    await train(two, { steps: 1, horizon: 2 }, { checkpoints: stateless });
    const before = [await weights(one), await weights(two)];
    const refused: [RegExp, () => Promise<unknown>][] = [
      [
        /kind is stateless, this one's counting/,
        () => train(one, { steps: 2 }, { checkpoints: stateless, resume: true }),
      ],
      [
        /kind is counting, this one's stateless/,
        () => train(two, { steps: 2 }, { checkpoints: counting, resume: true }),
      ],
      [/4 lanes, the stream has 3/, () => train(one, { steps: 2 }, { checkpoints: counting, resume: true }, 3)],
    ];
    for (const [words, run] of refused) {
      const error = await failure(run());
      expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
      expect(error.message).to.match(words);
    }
    await using other = await Counting.create();
    const parts: readonly StatePart[] = [one.stateLayout[0]!, { ...one.stateLayout[1]!, dtype: "int32" }];
    Object.assign(other, { stateLayout: parts });
    const error = await failure(train(other, { steps: 2 }, { checkpoints: counting, resume: true }));
    expect(error.message).to.match(/holds tokens as int64, expected int32/);
    expect([await weights(one), await weights(two)]).to.deep.equal(before);
  });

  it("what is composed of forward scores a Memformer as its own scoring does, with every ablation", async () => {
    await using model = await tinyModel({ segmentLength: 8, vocabulary: 18, bos: 17 });
    await perturb(model);
    const composed: EvaluatedModel = {
      stateLayout: model.stateLayout,
      initialState: (rows) => model.initialState(rows),
      upload: (segment) => model.upload(segment),
      advance: (...step) => model.advance(...step),
      forward: (...step) => model.forward(...step),
    };
    const [own, found] = [
      await evaluate(model, task(), { segments: 12, segmentsPerStep: 3 }),
      await evaluate(composed, task(), { segments: 12, segmentsPerStep: 3 }),
    ];
    expect(found.nats).to.be.closeTo(own.nats, 1e-8);
    for (const ablation of ABLATIONS)
      expect(found.ablations[ablation]!.nats, ablation).to.be.closeTo(own.ablations[ablation]!.nats, 1e-8);
  });

  it("a Memformer tells its memory, and replay refuses a gradient that does not belong to it", async () => {
    await using model = await tinyModel();
    expect(model.stateLayout).to.deep.equal([
      { name: "memory", shape: [3, 16], dtype: "float64", differentiable: true },
    ]);
    const [segment] = randomWindow(model, { segments: 1 });
    for (const [last, gradient, words] of [
      [true, 1, /after the last segment the state's gradient is 0 tensor\(s\), got 1/],
      [false, 0, /before a later segment the state's gradient is 1 tensor\(s\), got 0/],
    ] as const) {
      const replayed = tidy(() => {
        const state = model.initialState(4);
        return model.replay([model.upload(segment!)], state, [1], state.slice(0, gradient), [{}], last).loss;
      });
      const error = await failure(replayed.item());
      expect(error.code).to.equal("ERR_MEMFORMER_SHAPE");
      expect(error.message).to.match(words);
    }
  });
});
