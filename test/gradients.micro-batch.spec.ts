import { expect } from "chai";
import {
  disposeSegment,
  gradientMethods,
  memoryUsage,
  mrbp,
  PADDING,
  resetPeakMemory,
  synchronize,
  tidy,
  type Recurrence,
  type Tensor,
  type WindowOptions,
} from "../lib/index.ts";
import { carried, errors, runWindow, type WindowRun } from "./support/run-window.ts";
import { numbers, perturb, randomWindow, relativeError, takeGradients, tinyModel } from "./support/models.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";

const methods = Object.entries(gradientMethods);
const batch = 5;

function expectEqual(what: string, found: WindowRun, whole: WindowRun): void {
  expect(found.counts, `${what}: counts`).to.deep.equal(whole.counts);
  for (const [part, error] of Object.entries(errors(found, whole)))
    expect(error, `${what}: ${part}`).to.be.at.most(1e-10);
}

describe("a batch a few rows at a time", function () {
  this.timeout(120_000);

  const given: readonly WindowOptions[] = [
    {},
    { weights: "doubling" },
    { weights: [0.5, 0, -1, 2], scale: 0.25 },
    { carry: 1 },
    { carry: 3, segmentsPerStep: 2 },
    { segmentsPerStep: 4 },
  ];
  for (const [name, method] of methods)
    for (const options of given) {
      it(`has the gradient, losses and memory of the whole, by ${name} with ${JSON.stringify(options)}: padded and not, resets, carried memory`, async () => {
        await using model = await tinyModel({ dropout: 0 });
        await perturb(model);
        const start = await carried(model, batch);
        for (const ragged of [true, false, "behind"] as const) {
          const whole = await runWindow(model, method, options, start, { batch, ragged });
          expect(Math.max(...whole.gradient.flat().map(Math.abs)), "gradient at the window's start").to.be.above(1e-9);
          for (const microBatch of [1, 2, 3]) {
            const found = await runWindow(model, method, { ...options, microBatch }, start, { batch, ragged });
            expectEqual(`padding ${ragged}, ${microBatch} of ${batch} rows`, found, whole);
          }
        }
      });
    }

  for (const architecture of ["encoder", "decoder", "compressive-transformer", "rmt", "gated-delta"] as const)
    it(`has those of the whole for ${architecture}`, async () => {
      await using model = await tinyModel({ architecture, dropout: 0 });
      const start = await carried(model, batch),
        shape = { batch };
      expectEqual(
        architecture,
        await runWindow(model, mrbp, { microBatch: 2 }, start, shape),
        await runWindow(model, mrbp, {}, start, shape),
      );
    });

  it("has the whole's loss and gradient where a segment has nothing to score", async () => {
    await using model = await tinyModel({ dropout: 0 });
    const taken = async (microBatch?: number): Promise<{ losses: number[]; gradients: Map<string, Float64Array> }> => {
      const result = tidy(() => {
        const window = randomWindow(model, { batch }).map((segment, t) =>
          model.upload(t === 2 ? { ...segment, target: new Int32Array(segment.target.length).fill(PADDING) } : segment),
        );
        return mrbp(model, window, model.initialState(batch), { microBatch });
      });
      const losses = (await numbers(result.losses)).flat();
      for (const tensor of [...result.counts, ...result.state, ...result.gradient]) tensor.dispose();
      return { losses, gradients: await takeGradients(model) };
    };
    const whole = await taken(),
      found = await taken(2);
    expect(found.losses[2]).to.equal(0);
    found.losses.forEach((loss, t) => {
      expect(loss).to.be.closeTo(whole.losses[t]!, 1e-12);
    });
    expect(relativeError(found.gradients, whole.gradients)).to.be.at.most(1e-10);
  });

  it("is the whole, bit for bit, when as many rows as it has are asked for, or more", async () => {
    await using model = await tinyModel({ dropout: 0.1 });
    for (const [, method] of methods) {
      const whole = await runWindow(model, method, { seed: 3 });
      for (const microBatch of [4, 9, undefined])
        expect(await runWindow(model, method, { seed: 3, microBatch })).to.deep.equal(whole);
    }
  });

  it("is the same by every method with dropout, and by other masks than the whole's", async () => {
    await using model = await tinyModel({ dropout: 0.1 });
    const start = await carried(model, batch),
      options = { seed: 3, weights: "doubling", microBatch: 2 } as const,
      shape = { batch };
    const exact = await runWindow(model, gradientMethods.bptt, options, start, shape);
    for (const [name, method] of methods)
      expectEqual(name, await runWindow(model, method, options, start, shape), exact);
    const whole = await runWindow(model, gradientMethods.bptt, { ...options, microBatch: undefined }, start, shape);
    expect(errors(exact, whole).parameters).to.be.above(1e-3);
  });

  it("asks the model how many segments go back together by the rows of a group, and gives each group seeds of its own", async () => {
    await using model = await tinyModel({ dropout: 0.1 });
    const asked: number[] = [],
      seeds: number[] = [];
    const watched: Recurrence = {
      advance: (...step) => model.advance(...step),
      forward: (segment, state, step) => {
        seeds.push(step!.seed!);
        return model.forward(segment, state, step);
      },
      segmentsPerStep: (segment) => asked.push(segment.batch),
    };
    const result = tidy(() =>
      mrbp(
        watched,
        randomWindow(model, { batch }).map((segment) => model.upload(segment)),
        model.initialState(batch),
        { microBatch: 2, seed: 1 },
      ),
    );
    await numbers(Object.values(result).flat() as Tensor[]);
    expect(asked).to.deep.equal([2, 2, 1]);
    expect(new Set(seeds).size).to.equal(3 * 4);
  });

  it("trains a recurrence of one's own, its state in two tensors", async () => {
    await using first = await tinyModel({ architecture: "encoder", dropout: 0 });
    await using second = await tinyModel({ architecture: "encoder", dropout: 0, seed: 9 });
    const chain: Recurrence = {
      advance: (segment, state, step) => chain.forward(segment, state, step).state,
      forward: (segment, [a, b], step) => {
        const one = first.encode(segment, [a!], step),
          two = second.forward({ ...segment, source: one.hidden }, [b!], step);
        return { loss: two.loss, count: two.count, state: [...one.state, ...two.state] };
      },
    };
    const found: { memory: number[]; gradients: Map<string, Float64Array> }[] = [];
    for (const microBatch of [undefined, 2]) {
      const result = tidy(() =>
        mrbp(
          chain,
          randomWindow(first, { batch }).map((segment) => first.upload(segment)),
          [...first.initialState(batch), ...second.initialState(batch)],
          { microBatch },
        ),
      );
      await numbers([...result.losses, ...result.counts]);
      found.push({
        memory: (await numbers([...result.state, ...result.gradient])).flat(),
        gradients: await takeGradients(second),
      });
      first.zeroGradients();
    }
    expect(relativeError(found[1]!.gradients, found[0]!.gradients)).to.be.at.most(1e-10);
    found[1]!.memory.forEach((value, i) => {
      expect(value).to.be.closeTo(found[0]!.memory[i]!, 1e-10);
    });
  });

  it("takes the memory of a few rows: 2 of 16 at most a quarter of what all take", async () => {
    await using model = await tinyModel({ precision: "float32", width: 64, memorySlots: 32, segmentLength: 32 });
    const rows = 16;
    const peak = async (microBatch?: number): Promise<number> => {
      const window = randomWindow(model, { batch: rows, segments: 4, ragged: false }).map((segment) =>
        model.upload(segment),
      );
      const state = model.initialState(rows),
        start = (await memoryAtRest()).hostBytes;
      resetPeakMemory();
      const result = tidy(() => gradientMethods.bptt(model, window, state, { microBatch }));
      await synchronize();
      const most = memoryUsage().peakHostBytes - start;
      for (const tensor of [...(Object.values(result).flat() as Tensor[]), ...state]) tensor.dispose();
      window.forEach(disposeSegment);
      return most;
    };
    await peak(); // the gradients' own memory is there from now on
    const whole = await peak();
    expect(await peak(2)).to.be.at.most(whole / 4);
  });

  it("refuses a number of rows that is none, in words", async () => {
    await using model = await tinyModel();
    const state = model.initialState(4),
      window = randomWindow(model).map((segment) => model.upload(segment));
    for (const [, method] of methods)
      for (const microBatch of [0, -1, 1.5, NaN]) {
        expect(() => method(model, window, state, { microBatch }))
          .to.throw(`microBatch must be a whole number of at least 1, got ${microBatch}`)
          .with.property("code", "ERR_MEMFORMER_CONFIG");
      }
    for (const [, method] of methods) {
      expect(() => method(model, [], state, { microBatch: 2 })).to.throw(/at least one segment/);
      expect(() => method(model, window, state, { microBatch: 2, weights: [1] })).to.throw(/4 finite numbers/);
      expect(() => method(model, window, state, { microBatch: 2, carry: 5 })).to.throw(/carry must be/);
    }
  });
});
