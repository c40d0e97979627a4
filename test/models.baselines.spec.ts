/**
 * Each baseline, and the decoder with a cache, against a plain program: losses, state and gradients; and what MRBP,
 * BPTT and sessions make of it.
 */
import { expect } from "chai";
import {
  bptt,
  disposeSegment,
  mrbp,
  openTokenizer,
  Session,
  Tensor,
  type CreateOptions,
  type Segment,
} from "../lib/index.ts";
import type { Memformer } from "../lib/index.ts";
import { Random } from "../lib/data/random.ts";
import {
  baselines,
  numbers,
  perturb,
  randomWindow,
  takeGradients,
  tinyModel,
  type WindowShape,
} from "./support/models.ts";
import { plain, type Weights } from "./support/plain/index.ts";

async function weightsOf(model: Memformer): Promise<Map<string, Float64Array>> {
  const weights = new Map<string, Float64Array>();
  for (const { name } of model.parameters) {
    using value = model.parameter(name);
    weights.set(name, Float64Array.from((await value.data()) as Float64Array));
  }
  return weights;
}

function window(model: Memformer, shape: WindowShape): Segment[] {
  const made = randomWindow(model, { batch: 4, segments: 3, ...shape });
  made[0]!.reset.fill(1);
  return made;
}

const shapes: Readonly<Record<string, WindowShape>> = {
  "no padding": { ragged: false },
  "padding behind the tokens": { ragged: "behind" },
  "padding anywhere, rows that restart": {},
};

type Baseline = (typeof baselines)[number] | "cached-decoder";

/** So short a cache that tokens leave it in every shape, where that is more than being forgotten. */
const sizesOf = (architecture: Baseline): CreateOptions =>
  architecture === "compressive-transformer" ? { architecture, cacheLength: 3 } : { architecture };

async function expectLossesAndState(architecture: Baseline, model: Memformer, segments: Segment[]): Promise<void> {
  const wanted = plain[architecture](await weightsOf(model), model.config, segments);
  const uploaded = segments.map((segment) => model.upload(segment));
  const { losses, state } = bptt(model, uploaded, model.initialState(segments[0]!.batch), {
    training: false,
    weights: "segments",
  });
  uploaded.forEach(disposeSegment);
  model.zeroGradients();
  const [found, left] = [(await numbers(losses)).flat(), await numbers(state)];
  found.forEach((loss, t) => expect(loss, `loss ${t}`).to.be.closeTo(wanted.losses[t]!, 1e-11));
  expect(left.length).to.equal(wanted.state.length);
  left.forEach((part, p) => {
    expect(part.length).to.equal(wanted.state[p]!.length);
    part.forEach((value, i) => expect(value, `state ${p}, ${i}`).to.be.closeTo(wanted.state[p]![i]!, 1e-11));
  });
}

/** Along a random direction of each parameter, against differences of the plain program. */
async function expectGradients(architecture: Baseline, model: Memformer, segments: Segment[]): Promise<void> {
  const weights = await weightsOf(model),
    { before } = plain[architecture](weights, model.config, segments),
    random = new Random(3);
  const directions = new Map(
    [...weights].map(([name, values]) => [name, values.map(() => random.next() / 2 ** 31 - 1)] as const),
  );
  const wanted = new Map(
    [...weights].map(([parameter, values]) => {
      const direction = directions.get(parameter)!;
      const at = (step: number): number => {
        const moved: Weights = new Map([...weights, [parameter, values.map((v, i) => v + step * direction[i]!)]]);
        const { losses, beside } = plain[architecture](moved, model.config, segments, before);
        const own = beside !== undefined && parameter.includes(beside.trains) ? beside.losses : losses;
        return own.reduce((sum, loss) => sum + loss, 0) / own.length;
      };
      const slope = (8 * (at(2e-5) - at(-2e-5)) - (at(4e-5) - at(-4e-5))) / 24e-5; // of fourth order
      return [parameter, slope] as const;
    }),
  );
  for (const method of [bptt, mrbp]) {
    const uploaded = segments.map((segment) => model.upload(segment));
    const made = method(model, uploaded, model.initialState(segments[0]!.batch), {
      training: false,
      weights: "segments",
    });
    await Promise.all([made.losses, made.counts, made.state, made.gradient].map(numbers));
    uploaded.forEach(disposeSegment);
    for (const [parameter, gradient] of await takeGradients(model)) {
      const slope = wanted.get(parameter)!,
        direction = directions.get(parameter)!,
        found = gradient.reduce((sum, g, i) => sum + g * direction[i]!, 0);
      expect(Math.abs(found - slope), `${parameter}: ${found} ${slope}`).to.be.below(1e-8 + 1e-7 * Math.abs(slope));
    }
  }
}

describe("baselines: what a plain program computes", function () {
  this.timeout(120_000);
  for (const architecture of ["cached-decoder", ...baselines] as const)
    for (const [name, shape] of Object.entries(shapes)) {
      it(`${architecture}, ${name}: losses and state`, async () => {
        await using model = await tinyModel(sizesOf(architecture));
        await perturb(model);
        await expectLossesAndState(architecture, model, window(model, shape));
      });

      it(`${architecture}, ${name}: the gradient of every parameter, by differences of the plain program`, async () => {
        await using model = await tinyModel(sizesOf(architecture));
        await perturb(model);
        await expectGradients(architecture, model, window(model, shape));
      });
    }
});

describe("baselines: a gated delta rule over several chunks", function () {
  this.timeout(120_000);
  for (const [name, shape] of Object.entries(shapes))
    it(`${name}: the losses, state and gradients of the recurrence`, async () => {
      // Two whole chunks of 64 tokens and a part of a third.
      const long = { segmentLength: 150, decoderLayers: 1, width: 8, feedForward: 8 };
      await using model = await tinyModel({ architecture: "gated-delta", ...long });
      await perturb(model);
      const segments = window(model, { ...shape, batch: 2, segments: 2 });
      await expectLossesAndState("gated-delta", model, segments);
      await expectGradients("gated-delta", model, segments);
    });
});

describe("baselines: segments of a step", function () {
  this.timeout(120_000);
  for (const architecture of baselines)
    it(`${architecture}: alone, two, and all together, with dropout, are the same`, async () => {
      await using model = await tinyModel({ ...sizesOf(architecture), dropout: 0.3 });
      await perturb(model);
      const uploaded = window(model, {}).map((segment) => model.upload(segment));
      const all = async (segmentsPerStep: number): Promise<number[]> => {
        model.zeroGradients();
        const { losses, state } = mrbp(model, uploaded, model.initialState(4), { seed: 5, segmentsPerStep });
        const made = [...(await numbers(losses)), ...(await numbers(state))];
        return [...made, ...[...(await takeGradients(model)).values()].map((values) => [...values])].flat();
      };
      const alone = await all(1);
      for (const count of [2, 3]) {
        const together = await all(count);
        expect(together.length).to.equal(alone.length);
        together.forEach((value, i) => expect(value, `number ${i} of ${count}`).to.be.closeTo(alone[i]!, 1e-11));
      }
      uploaded.forEach(disposeSegment);
    });
});

describe("baselines: attention reconstruction", () => {
  it("teaches the convolutions alone, and falls", async () => {
    await using model = await tinyModel(sizesOf("compressive-transformer"));
    await perturb(model);
    const segments = window(model, { ragged: "behind" }).map((segment) => model.upload(segment));
    const once = async (): Promise<number> => {
      const { losses, counts, state, gradient } = mrbp(model, segments, model.initialState(4), { training: false });
      await Promise.all([losses, counts, gradient].map(numbers));
      const seen = await model.observe(segments[2]!, state, ["compression.loss"]);
      for (const tensor of state) tensor.dispose();
      expect([...seen.keys()]).to.deep.equal(["compression.loss"]);
      return seen.get("compression.loss")!.data[0]!;
    };
    const all: number[] = [];
    for (let step = 0; step < 30; step++) {
      all.push(await once());
      for (const [name, gradient] of await takeGradients(model)) {
        if (!name.includes(".compression.")) continue;
        using now = model.parameter(name);
        const { shape } = model.parameters.find((parameter) => parameter.name === name)!;
        const values = (await now.data()) as Float64Array;
        using moved = Tensor.from(
          Float64Array.from(values, (value, i) => value - 2 * gradient[i]!),
          shape,
        );
        model.assign(name, moved);
      }
    }
    segments.forEach(disposeSegment);
    expect(all[0]).to.be.above(0);
    expect(all.at(-1)).to.be.below(0.7 * all[0]!);
  });
});

describe("baselines: a twin", () => {
  for (const architecture of baselines) {
    it(`${architecture} keeps nothing from segment to segment with memory false`, async () => {
      const run = async (options: CreateOptions, resets: boolean): Promise<number[]> => {
        await using model = await tinyModel({ architecture, ...options });
        const segments = window(model, { ragged: false });
        if (resets) for (const segment of segments) segment.reset.fill(1);
        const uploaded = segments.map((segment) => model.upload(segment));
        const { losses, state } = bptt(model, uploaded, model.initialState(4), { training: false });
        uploaded.forEach(disposeSegment);
        for (const tensor of state) tensor.dispose();
        return (await numbers(losses)).flat();
      };
      expect(await run({ memory: false }, false)).to.deep.equal(await run({}, true));
      expect(await run({ memory: false }, false)).to.not.deep.equal(await run({}, false));
    });
  }
});

describe("baselines: sessions", function () {
  this.timeout(120_000);
  for (const architecture of baselines) {
    it(`${architecture}: token by token the logits that logits() gives, and the same text after a restore`, async () => {
      await using model = await tinyModel({ architecture, vocabulary: 257, bos: 256, precision: "float32" });
      const tokenizer = await openTokenizer("bytes");
      using session = await model.session(tokenizer);
      await session.read("a text longer than one segment of six");
      const saved = await session.save();
      const options = { maxTokens: 20, temperature: 0.9, seed: 4 };
      let once = "",
        again = "";
      for await (const piece of session.generate(options)) once += piece;
      using restored = await Session.restore(model, saved, tokenizer);
      for await (const piece of restored.generate(options)) again += piece;
      expect(again).to.equal(once).and.not.equal("");
    });
  }
});
