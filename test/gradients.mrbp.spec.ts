import { expect } from "chai";
import {
  applyOperator,
  backward,
  bptt,
  checkpointing,
  disposeSegment,
  gradientMethods,
  lossWeights,
  mrbp,
  tidy,
  type Recurrence,
  type SegmentTensors,
  type Tensor,
  type WindowOptions,
} from "../lib/index.ts";
import { stepWeights } from "../lib/gradients/window.ts";
import { carried, errors, runWindow, type WindowRun } from "./support/run-window.ts";
import {
  bits,
  compositions,
  numbers,
  perturb,
  randomWindow,
  recipeOptions,
  relativeError,
  takeGradients,
  tinyModel,
  variants,
  writers,
} from "./support/models.ts";

function expectEqual(a: WindowRun, b: WindowRun, tolerance: number): void {
  expect(a.losses).to.deep.equal(b.losses);
  expect(a.counts).to.deep.equal(b.counts);
  expect(a.state).to.deep.equal(b.state);
  const { parameters, gradient } = errors(a, b);
  expect(parameters, "gradient of the parameters").to.be.at.most(tolerance);
  expect(gradient, "gradient of the memory").to.be.at.most(tolerance);
}

describe("MRBP gives the gradient of BPTT over the same window", function () {
  this.timeout(120_000);

  for (const { architecture, writer, position } of compositions) {
    it(`for ${architecture}, ${writer}, ${position}: dropout, padding, resets, carried memory`, async () => {
      for (const [precision, tolerance] of [
        ["float64", 1e-10],
        ["float32", 1e-5],
      ] as const) {
        await using model = await tinyModel({ architecture, writer, position, precision, dropout: 0.1 });
        const start = await carried(model);
        const options = { seed: 3, weights: "doubling" } as const;
        const exact = await runWindow(model, bptt, options, start);
        expectEqual(await runWindow(model, mrbp, options, start), exact, tolerance);
        expectEqual(await runWindow(model, checkpointing, options, start), exact, tolerance);
        const behind = { ragged: "behind" } as const; // padding behind tokens alone, told by lengths
        expectEqual(
          await runWindow(model, mrbp, options, start, behind),
          await runWindow(model, bptt, options, start, behind),
          tolerance,
        );
        expect(exact.gradient.length).to.equal(model.stateLayout.filter((part) => part.differentiable).length);
        for (const part of exact.gradient)
          expect(Math.max(...part.map(Math.abs)), "gradient at the window's start").to.be.above(1e-9);
      }
    });
  }

  for (const forgetting of ["bmn", "normalize-only", "none"] as const) {
    it(`with forgetting ${forgetting}, tied and untied, weights away from their start`, async () => {
      for (const tieEmbedding of [true, false]) {
        await using model = await tinyModel({ forgetting, tieEmbedding, dropout: 0.1 });
        await perturb(model);
        expectEqual(await runWindow(model, mrbp), await runWindow(model, bptt), 1e-10);
      }
    });
  }

  for (const options of [
    { writerHeads: 4 },
    { writerSteps: 3 },
    { writerBias: true },
    { memoryNorm: false },
    { position: "t5", positionBuckets: "lucidrains" },
    { shareEmbedding: false },
    { shareEmbedding: false, tieEmbedding: false },
    { outputBias: true },
    { outputBias: true, tieEmbedding: false },
  ] as const) {
    it(`with ${JSON.stringify(options)}`, async () => {
      for (const [precision, tolerance] of [
        ["float64", 1e-10],
        ["float32", 1e-5],
        ["bfloat16", 2e-2],
      ] as const) {
        await using model = await tinyModel({ writer: "gru", position: "t5", ...options, precision, dropout: 0.1 });
        await perturb(model);
        // Only weights that are powers of two commute with bfloat16's rounding; others leave what it makes of noisy
        // weights.
        const weighed: WindowOptions = { weights: precision === "bfloat16" ? "segments" : "tokens" };
        expectEqual(await runWindow(model, mrbp, weighed), await runWindow(model, bptt, weighed), tolerance);
      }
    });
  }

  for (const options of recipeOptions.filter((one) => !("memory" in one))) {
    it(`with ${JSON.stringify(options)}, whatever goes back together: dropout, padding, resets, carried memory`, async () => {
      for (const architecture of variants) {
        await using model = await tinyModel({ architecture, ...options, dropout: 0.1 });
        await perturb(model);
        const start = await carried(model),
          exact = await runWindow(model, bptt, { seed: 3 }, start);
        expectEqual(await runWindow(model, mrbp, { seed: 3 }, start), exact, 1e-10);
        for (const segmentsPerStep of [2, 4]) {
          const found = await runWindow(model, mrbp, { seed: 3, segmentsPerStep }, start);
          for (const [part, error] of Object.entries(errors(found, exact)))
            expect(error, `${architecture}, ${segmentsPerStep}: ${part}`).to.be.at.most(1e-10);
        }
      }
    });
  }

  const given: readonly WindowOptions[] = [
    { weights: "tokens" },
    { weights: "segments" },
    { weights: "doubling" },
    { weights: [0.5, 0, -1, 2] },
    { scale: 0.25 },
    { carry: 1 },
    { carry: 3 },
    { training: false },
  ];
  for (const options of given) {
    it(`with ${JSON.stringify(options)}`, async () => {
      await using model = await tinyModel({ dropout: 0.1 });
      expectEqual(await runWindow(model, mrbp, options), await runWindow(model, bptt, options), 1e-10);
      expectEqual(await runWindow(model, checkpointing, options), await runWindow(model, bptt, options), 1e-10);
    });
  }

  it("when windows overlap and accumulate: three windows, carry 2 of 4, one sum of gradients", async () => {
    await using model = await tinyModel({ dropout: 0.1 });
    const sums: Map<string, Float64Array>[] = [];
    for (const method of [mrbp, bptt]) {
      const states = tidy(() => {
        const segments = randomWindow(model, { segments: 8 }).map((segment) => model.upload(segment));
        let state: readonly Tensor[] = model.initialState(4);
        for (let i = 0; i < 3; i++) {
          const options = { seed: i, carry: 2, scale: 1 / 3 };
          state = method(model, segments.slice(2 * i, 2 * i + 4), state, options).state;
        }
        return state;
      });
      await numbers(states);
      sums.push(await takeGradients(model));
    }
    expect(relativeError(sums[0]!, sums[1]!)).to.be.at.most(1e-10);
  });

  for (const segmentsPerStep of [2, 3, 4, 9])
    it(`whatever goes back together: ${segmentsPerStep} of 4 segments; dropout, padding, resets, carried memory`, async () => {
      for (const { architecture, writer, position } of compositions) {
        await using model = await tinyModel({ architecture, writer, position, dropout: 0.1 });
        const start = await carried(model),
          options = { seed: 3, weights: "doubling" } as const;
        for (const ragged of [true, "behind"] as const) {
          const exact = await runWindow(model, bptt, options, start, { ragged });
          const found = await runWindow(model, mrbp, { ...options, segmentsPerStep }, start, { ragged });
          expect(found.counts).to.deep.equal(exact.counts);
          for (const [part, error] of Object.entries(errors(found, exact))) {
            expect(error, `${architecture}, ${writer}, ${position}, padding ${ragged}: ${part}`).to.be.at.most(1e-10);
          }
        }
      }
    });

  for (const ragged of [false, true, "behind"] as const)
    it(`whatever goes back together and however the memory forgets: resets, padding ${ragged}`, async () => {
      for (const memory of [
        {},
        { forgetting: "normalize-only" },
        { forgetting: "none" },
        { writerSteps: 2 },
        { memoryNorm: false },
      ] as const) {
        await using model = await tinyModel({ ...memory, dropout: 0.1 });
        const start = await carried(model),
          options = { seed: 5, weights: "doubling" } as const,
          shape = { ragged, restarts: true };
        const exact = await runWindow(model, bptt, options, start, shape);
        for (const segmentsPerStep of [2, 3, 4]) {
          const found = await runWindow(model, mrbp, { ...options, segmentsPerStep }, start, shape);
          for (const [part, error] of Object.entries(errors(found, exact)))
            expect(error, `${JSON.stringify(memory)}, ${segmentsPerStep}: ${part}`).to.be.at.most(1e-10);
        }
      }
    });

  it("when windows overlap, two segments going back together: the state that is carried is the same", async () => {
    await using model = await tinyModel({ dropout: 0.1 });
    for (const carry of [1, 2, 3]) {
      const options = { seed: 4, carry },
        exact = await runWindow(model, bptt, options),
        found = await runWindow(model, mrbp, { ...options, segmentsPerStep: 2 });
      for (const [part, error] of Object.entries(errors(found, exact)))
        expect(error, `carry ${carry}: ${part}`).to.be.at.most(1e-10);
    }
  });

  it("where steps are recorded: BPTT is one replay of the window, checkpointing replays its segments, nothing is composed on the way back", async () => {
    await using model = await tinyModel({ dropout: 0.1 });
    const start = await carried(model),
      replays: number[] = [];
    const recorded = (): Recurrence => ({
      capturesGraphs: true,
      advance: (...step) => model.advance(...step),
      forward: (segment, state, step) => {
        expect(step?.graph, "a graph composed in JavaScript").to.not.equal(true);
        return model.forward(segment, state, step);
      },
      replay: (segments, ...others) => {
        replays.push(segments.length);
        return model.replay(segments, ...others);
      },
    });
    for (const options of [
      { seed: 3, weights: "doubling" },
      { seed: 3, carry: 1 },
      { seed: 3, carry: 3, segmentsPerStep: 2 },
    ] as const) {
      const exact = await runWindow(model, bptt, options, start);
      for (const [method, steps] of [
        [bptt, [4]],
        [checkpointing, "segmentsPerStep" in options ? [2, 2] : [1, 1, 1, 1]],
      ] as const) {
        replays.length = 0;
        const found = await runWindow(model, (_, ...given) => method(recorded(), ...given), options, start);
        expect(replays).to.deep.equal(steps);
        expect(found.counts).to.deep.equal(exact.counts);
        for (const [part, error] of Object.entries(errors(found, exact)))
          expect(error, `${JSON.stringify(options)}: ${part}`).to.be.at.most(1e-10);
      }
    }
  });

  it("where no step is recorded, as on a CPU: BPTT is one graph that is composed here", async () => {
    await using model = await tinyModel();
    expect(model.capturesGraphs).to.be.false;
    model.replay = () => {
      throw new Error("BPTT has replayed");
    };
    for (const method of [bptt, checkpointing]) await runWindow(model, method);
    expect(() =>
      tidy(() =>
        mrbp(
          model,
          randomWindow(model).map((segment) => model.upload(segment)),
          model.initialState(4),
        ),
      ),
    ).to.throw("BPTT has replayed");
  });

  it("in bfloat16: losses to the bit, gradients to 2e-2", async () => {
    for (const architecture of variants) {
      await using model = await tinyModel({ architecture, precision: "bfloat16", dropout: 0.1 });
      expectEqual(await runWindow(model, mrbp), await runWindow(model, bptt), 2e-2);
    }
  });

  it("for a recurrence of one's own: two models in series, a loss made of operators", async () => {
    await using first = await tinyModel({ architecture: "encoder", dropout: 0.1 });
    await using second = await tinyModel({ architecture: "encoder", dropout: 0.1, seed: 9 });
    const chain: Recurrence = {
      advance: (segment, [a, b], step) => {
        const one = first.encode(segment, [a!], step);
        return [...one.state, ...second.encode({ ...segment, source: one.hidden }, [b!], step).state];
      },
      forward: (segment, [a, b], step) => {
        const one = first.encode(segment, [a!], step);
        const two = second.encode({ ...segment, source: one.hidden }, [b!], step);
        const loss = applyOperator("aten::mean", applyOperator("aten::mul.Tensor", two.hidden, two.hidden));
        return { loss, count: applyOperator("aten::sum", segment.reset), state: [...one.state, ...two.state] };
      },
    };
    const found: Map<string, Float64Array>[] = [];
    for (const [method, segmentsPerStep] of [
      [mrbp, 1],
      [mrbp, 3],
      [bptt, 1],
    ] as const) {
      const result = tidy(() => {
        const window = randomWindow(first).map((segment) => first.upload(segment));
        const start = [...first.initialState(4), ...second.initialState(4)];
        return method(chain, window, start, { seed: 2, weights: "doubling", segmentsPerStep });
      });
      const reached = await numbers(result.gradient);
      const both = new Map<string, Float64Array>();
      for (const [name, values] of await takeGradients(first)) both.set(`first.${name}`, values);
      for (const [name, values] of await takeGradients(second)) both.set(`second.${name}`, values);
      reached.forEach((values, i) => both.set(`memory.${i}`, Float64Array.from(values)));
      found.push(both);
    }
    for (const one of found) expect(relativeError(one, found.at(-1)!)).to.be.at.most(1e-10);
    expect(found[0]!.get("memory.1")!.some((value) => value !== 0)).to.be.true;
  });
});

describe("what MRBP replays", function () {
  this.timeout(60_000);

  it("is the first sweep, memory for memory, to the bit", async () => {
    const settings = compositions
      .filter(({ writer }) => writer === writers[0])
      .flatMap((composition) => (["float32", "bfloat16"] as const).map((precision) => ({ ...composition, precision })));
    for (const setting of settings) {
      await using model = await tinyModel({ ...setting, dropout: 0.1 });
      const swept: Promise<string>[] = [],
        replayed: Promise<string>[] = [];
      const recording: Recurrence = {
        stateLayout: model.stateLayout,
        advance: (...step) => {
          const state = model.advance(...step);
          swept.push(bits(state[0]!));
          return state;
        },
        forward: (...step) => {
          const result = model.forward(...step);
          replayed.unshift(bits(result.state[0]!));
          return result;
        },
      };
      const result = tidy(() => {
        const window = randomWindow(model).map((segment) => model.upload(segment));
        return mrbp(recording, window, model.initialState(4), { seed: 8 });
      });
      expect(swept).to.have.length(3);
      const again = await Promise.all(replayed.slice(0, 3));
      expect(again, JSON.stringify(setting)).to.deep.equal(await Promise.all(swept));
      await numbers([...result.losses, ...result.counts, ...result.state, ...result.gradient]);
    }
  });

  it("depends on the seed: another one gives another gradient, the same one the same to the bit", async () => {
    await using model = await tinyModel({ dropout: 0.1 });
    const drawn = async (seed: number, training: boolean) =>
      (await runWindow(model, mrbp, { seed, training })).parameters;
    const first = await drawn(3, true);
    expect(relativeError(first, await drawn(4, true))).to.be.above(1e-3);
    expect(relativeError(first, await drawn(3, true))).to.equal(0);
    expect(relativeError(await drawn(3, false), await drawn(4, false))).to.equal(0);
  });

  it("draws other masks in every segment and window", async () => {
    await using model = await tinyModel({ dropout: 0.5 });
    const [segment] = randomWindow(model, { ragged: false });
    const losses: number[] = [];
    for (const seed of [0, 1]) {
      const result = tidy(() => {
        // Nothing tells the segments apart but their masks: one segment four times, each from a document's start.
        const same = model.upload({ ...segment!, reset: new Uint8Array(4).fill(1) });
        return mrbp(model, [same, same, same, same], model.initialState(4), { seed });
      });
      losses.push(...(await numbers(result.losses)).flat());
    }
    expect(new Set(losses).size).to.equal(8);
  });

  it("sends gradient into the learned initial memory where a window starts a document, and only there", async () => {
    await using model = await tinyModel();
    const name = model.parameters.find((parameter) => parameter.name.endsWith("v_bias"))!.name;
    const found: boolean[] = [];
    for (const start of [0, 1]) {
      const result = tidy(() => {
        const window = randomWindow(model, { ragged: false }).map((segment, t) =>
          model.upload({ ...segment, reset: new Uint8Array(4).fill(t === 0 ? start : 0) }),
        );
        return mrbp(model, window.slice(0, 1), model.initialState(4), {});
      });
      const [reached] = await numbers(result.gradient);
      // One segment: v_bias can only be reached as the memory the segment starts from.
      const learned = (await takeGradients(model)).get(name)!;
      found.push(
        learned.some((value) => value !== 0),
        reached!.some((value) => value !== 0),
      );
    }
    expect(found).to.deep.equal([false, true, true, false]);
  });

  it("leaves the given state alone and gives every method one signature", async () => {
    await using model = await tinyModel();
    const state = await carried(model),
      before = await bits(state[0]!);
    for (const method of Object.values(gradientMethods)) await runWindow(model, method, {}, state);
    expect(await bits(state[0]!)).to.equal(before);
  });
});

describe("loss weights", function () {
  this.timeout(60_000);

  it("sum to 1: by tokens, by segments or doubling; a list is taken as it is", () => {
    expect(lossWeights("tokens", 3, [16, 0, 4])).to.deep.equal([0.8, 0, 0.2]);
    expect(lossWeights("tokens", 2, [0, 0])).to.deep.equal([0, 0]);
    expect(() => lossWeights("tokens", 2))
      .to.throw(/scored targets of 2 segments/)
      .with.property("code", "ERR_MEMFORMER_CONFIG");
    expect(lossWeights("segments", 4)).to.deep.equal([0.25, 0.25, 0.25, 0.25]);
    expect(lossWeights("uniform", 4)).to.deep.equal([0.25, 0.25, 0.25, 0.25]);
    expect(lossWeights("doubling", 3)).to.deep.equal([1 / 7, 2 / 7, 4 / 7]);
    expect(lossWeights([3, 1], 2)).to.deep.equal([3, 1]);
  });

  it("are refused when there are not as many as segments, or one is no number", () => {
    for (const weights of [[1], [1, 2, 3], [1, NaN]]) {
      expect(() => lossWeights(weights, 2))
        .to.throw(/2 finite numbers/)
        .with.property("code", "ERR_MEMFORMER_CONFIG");
    }
  });

  it("scale the gradient: BPTT with the weights given by hand is the weighted sum of single losses", async () => {
    await using model = await tinyModel();
    const whole = await runWindow(model, bptt, { weights: [1, 2, 3, 4] });
    const sum = new Map<string, Float64Array>();
    for (let t = 0; t < 4; t++) {
      const weights = [0, 0, 0, 0].map((_, i) => (i === t ? t + 1 : 0));
      for (const [name, values] of (await runWindow(model, mrbp, { weights })).parameters) {
        sum.set(
          name,
          values.map((value, i) => value + (sum.get(name)?.[i] ?? 0)),
        );
      }
    }
    expect(relativeError(sum, whole.parameters)).to.be.at.most(1e-10);
  });

  for (const microBatch of [undefined, 3])
    it(`by tokens give the gradient of the mean over all scored targets, ${microBatch ?? "all"} rows at a time, by every method`, async () => {
      await using model = await tinyModel({ dropout: 0 });
      await perturb(model);
      const upload = (): SegmentTensors[] => randomWindow(model).map((segment) => model.upload(segment));
      const total = tidy(() => {
        let state = model.initialState(4),
          nats: Tensor | undefined,
          scored = 0;
        for (const segment of upload()) {
          const step = model.forward(segment, state, { graph: true, training: true });
          const targets = segment.scored.reduce((sum, count) => sum + count, 0),
            sum = applyOperator("aten::mul.Scalar", step.loss, targets);
          nats = nats === undefined ? sum : applyOperator("aten::add.Tensor", nats, sum);
          [state, scored] = [step.state, scored + targets];
        }
        const mean = applyOperator("aten::div.Scalar", nats!, scored);
        backward([mean], [1]);
        return mean.detach();
      });
      total.dispose();
      const exact = await takeGradients(model);
      for (const method of Object.values(gradientMethods)) {
        expect(relativeError((await runWindow(model, method, { microBatch })).parameters, exact)).to.be.at.most(1e-10);
        expect(
          relativeError((await runWindow(model, method, { microBatch, weights: "segments" })).parameters, exact),
        ).to.be.above(1e-3);
      }
    });

  it("of a step of several windows weigh every scored target of the step alike; else every window, a list by its shares", async () => {
    await using model = await tinyModel();
    const windows = [4, 2].map((segments) => randomWindow(model, { segments }).map((segment) => model.upload(segment)));
    const counts = windows.map((window) => window.map(({ scored }) => scored.reduce((sum, count) => sum + count, 0)));
    const all = counts.flat().reduce((sum, count) => sum + count, 0);
    expect(stepWeights(windows, "tokens")).to.deep.equal(counts.map((some) => some.map((count) => count / all)));
    expect(stepWeights(windows, "segments")).to.deep.equal([
      [1, 1, 1, 1].map((one) => one / 4 / 2),
      [1, 1].map((one) => one / 2 / 2),
    ]);
    const [first] = stepWeights(windows.slice(0, 1), [5, 5, 0, 10]);
    expect(first).to.deep.equal([0.25, 0.25, 0, 0.5]);
    windows.flat().forEach(disposeSegment);
  });

  it("refuses an empty window and a carry outside it", async () => {
    await using model = await tinyModel();
    const state = model.initialState(4);
    const window = randomWindow(model).map((segment) => model.upload(segment));
    for (const method of Object.values(gradientMethods)) {
      expect(() => method(model, [], state)).to.throw(/at least one segment/);
      for (const carry of [0, 5, 1.5]) expect(() => method(model, window, state, { carry })).to.throw(/carry must be/);
    }
  });
});
