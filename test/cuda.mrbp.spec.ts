import { expect } from "chai";
import {
  applyOperator,
  bptt,
  checkpointing,
  mrbp,
  configureRuntime,
  type CreateOptions,
  type DType,
  type GradientMethod,
  type Memformer,
  type SegmentTensors,
  type Tensor,
  type WindowOptions,
} from "../lib/index.ts";
import { carried, errors, runWindow, type WindowRun } from "./support/run-window.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";
import { perturb, positions, tinyModel, variants, type WindowShape, writers } from "./support/models.ts";

const exactness = { float64: 1e-10, float32: 1e-5 } as const;

function expectClose(what: string, found: WindowRun, expected: WindowRun, tolerance: number): void {
  expect(found.counts, `${what}: counts`).to.deep.equal(expected.counts);
  for (const [part, error] of Object.entries(errors(found, expected)))
    expect(error, `${what}: ${part}`).to.be.at.most(tolerance);
}

/** What all is held against: BPTT over one graph that JavaScript composes, as it does where no step is recorded. */
async function composed(
  model: Memformer,
  options: WindowOptions,
  start: readonly Tensor[],
  shape?: WindowShape,
): Promise<WindowRun> {
  model.captureGraphs(false);
  const found = await runWindow(model, bptt, options, start, shape);
  model.captureGraphs(true);
  return found;
}

/** A window three times: as it is, recorded, replayed. */
async function thrice(
  model: Memformer,
  options: WindowOptions,
  start: readonly Tensor[],
  method: GradientMethod = mrbp,
): Promise<WindowRun[]> {
  const found: WindowRun[] = [];
  for (let i = 0; i < 3; i++) found.push(await runWindow(model, method, options, start));
  return found;
}

async function onGpu(options: CreateOptions): Promise<Memformer> {
  const model = await tinyModel({ dropout: 0.1, ...options, device: GPU });
  await perturb(model, 0.1);
  return model;
}

describeOnGpu("on a GPU, MRBP gives the gradient of BPTT", function () {
  this.timeout(120_000);

  for (const precision of ["float32", "float64"] as const) {
    for (const architecture of variants)
      for (const writer of writers)
        for (const position of positions) {
          // compute-sanitizer is slow: one model stands for all.
          const first = architecture === variants[0] && writer === writers[0] && position === positions[0];
          const tag = first && precision === "float32" ? " [sanitize]" : "";
          it(`for ${architecture}, ${writer}, ${position} in ${precision}: recorded and not; dropout, padding, resets, carried memory${tag}`, async () => {
            await using model = await onGpu({ architecture, writer, position, precision });
            const start = await carried(model),
              options = { seed: 3, weights: "doubling" } as const,
              tolerance = exactness[precision];
            const exact = await composed(model, options, start);
            for (const segmentsPerStep of [1, 3, undefined]) {
              for (const [i, found] of (await thrice(model, { ...options, segmentsPerStep }, start)).entries()) {
                expectClose(`window ${i}, ${segmentsPerStep ?? "all"} a step`, found, exact, tolerance);
              }
            }
            model.captureGraphs(false);
            expectClose("not recorded", await runWindow(model, mrbp, options, start), exact, tolerance);
            model.captureGraphs(true);
            const behind = { ragged: "behind" } as const,
              told = await composed(model, options, start, behind); // padding that lengths tell
            for (const segmentsPerStep of [1, 3]) {
              for (let i = 0; i < 3; i++) {
                const found = await runWindow(model, mrbp, { ...options, segmentsPerStep }, start, behind);
                expectClose(`padding behind, window ${i}, ${segmentsPerStep} a step`, found, told, tolerance);
              }
            }
            if (model.stateLayout.some(({ differentiable }) => differentiable))
              expect(Math.max(...exact.gradient.flat().map(Math.abs)), "gradient at the window's start").to.be.above(
                1e-9,
              );
          });
        }
  }

  for (const precision of ["float32", "float64"] as const) {
    it(`with resets between segments that go back together, without padding, in ${precision}`, async () => {
      for (const forgetting of ["bmn", "normalize-only", "none"] as const) {
        await using model = await onGpu({ forgetting, precision });
        const start = await carried(model),
          options = { seed: 5, weights: "doubling" } as const,
          shape = { ragged: false, restarts: true };
        const exact = await composed(model, options, start, shape);
        for (const segmentsPerStep of [2, 3, 4]) {
          expectClose(
            `${forgetting}, ${segmentsPerStep}`,
            await runWindow(model, mrbp, { ...options, segmentsPerStep }, start, shape),
            exact,
            exactness[precision],
          );
        }
      }
    });
  }

  for (const options of [{ weights: "doubling" }, { carry: 1 }, { carry: 3, scale: 0.25 }] as const) {
    it(`as recorded BPTT and checkpointing do, with ${JSON.stringify(options)}`, async () => {
      for (const architecture of variants) {
        await using model = await onGpu({ architecture, precision: "float64" });
        expect(model.capturesGraphs).to.be.true;
        const start = await carried(model),
          exact = await composed(model, options, start);
        for (const [name, method] of [
          ["BPTT", bptt],
          ["checkpointing", checkpointing],
        ] as const) {
          const before = (await model.capturedGraphs()).steps;
          for (const [i, found] of (await thrice(model, options, start, method)).entries())
            expectClose(`${name}, window ${i}`, found, exact, 1e-10);
          const { steps, refusal } = await model.capturedGraphs();
          expect(steps, `steps that ${name} has recorded: ${refusal}`).to.be.above(before);
        }
      }
    });
  }

  for (const forgetting of ["normalize-only", "none"] as const) {
    it(`with forgetting ${forgetting}, untied`, async () => {
      await using model = await onGpu({ forgetting, tieEmbedding: false, precision: "float64" });
      const start = await carried(model),
        exact = await composed(model, {}, start);
      for (const found of await thrice(model, {}, start)) expectClose(forgetting, found, exact, 1e-10);
    });
  }

  for (const architecture of variants)
    for (const precision of ["float32", "float64"] as const) {
      it(`as lucidrains' port has it, for ${architecture} in ${precision}`, async () => {
        await using model = await onGpu({
          architecture,
          precision,
          writer: "gru",
          writerHeads: 4,
          writerSteps: 2,
          writerBias: true,
          memoryNorm: false,
          forgetting: "none",
          position: "t5",
          positionBuckets: "lucidrains",
          shareEmbedding: architecture !== "encoder-decoder",
          tieEmbedding: false,
          outputBias: true,
        });
        const start = await carried(model),
          exact = await composed(model, {}, start);
        for (const [i, found] of (await thrice(model, {}, start)).entries())
          expectClose(`window ${i}`, found, exact, exactness[precision]);
      });
    }

  for (const precision of ["bfloat16", "float16"] as const)
    for (const writer of writers)
      for (const position of positions) {
        it(`in ${precision} to 2e-2, for ${writer}, ${position}; near a CPU's in float64, parameter by parameter`, async () => {
          await using model = await onGpu({ writer, position, precision, dropout: 0 });
          await using reference = await tinyModel({ writer, position, device: "cpu" });
          await perturb(reference, 0.1);
          const start = model.initialState(4),
            exact = await composed(model, {}, start);
          for (const found of await thrice(model, {}, start)) expectClose(precision, found, exact, 2e-2);
          const truth = await runWindow(reference, bptt),
            { losses, parameters } = errors(exact, truth);
          expect(losses).to.be.at.most(3e-2);
          expect(parameters).to.be.at.most(0.1);
          for (const [name, gradient] of truth.parameters) {
            const wanted = Math.hypot(...gradient),
              found = Math.hypot(...exact.parameters.get(name)!);
            if (wanted > 1e-6) expect(found / wanted, name).to.be.within(0.5, 2);
          }
        });
      }

  for (const microBatch of [2, 3])
    it(`of the whole batch, ${microBatch} of 4 rows at a time`, async () => {
      await using model = await onGpu({ precision: "float64", dropout: 0 });
      const start = await carried(model),
        exact = await composed(model, { weights: "doubling" }, start);
      for (const [i, found] of (await thrice(model, { weights: "doubling", microBatch }, start)).entries())
        expectClose(`window ${i}`, found, exact, 1e-10);
    });

  for (const architecture of variants)
    for (const shape of [{}, { ragged: false }] as const)
      it(`as a CPU does, in float64, for ${architecture}, ${JSON.stringify(shape)}: the same weights, masks and gradients`, async () => {
        await using model = await onGpu({ architecture });
        await using reference = await tinyModel({ architecture, dropout: 0.1, device: "cpu" });
        await perturb(reference, 0.1);
        const options = { seed: 5 },
          expected = await runWindow(reference, mrbp, options, reference.initialState(4), shape);
        for (let i = 0; i < 3; i++)
          expectClose(
            `window ${i}`,
            await runWindow(model, mrbp, options, model.initialState(4), shape),
            expected,
            1e-9,
          );
      });
});

describeOnGpu("a recorded step", function () {
  this.timeout(120_000);

  it("gives the same bits as the step as it is, where the same input gives the same bits", async () => {
    configureRuntime({ deterministic: true });
    try {
      for (const precision of ["float32", "bfloat16"] as const) {
        await using model = await onGpu({ precision });
        const start = await carried(model),
          [as, recorded, replayed] = await thrice(model, { seed: 2 }, start);
        for (const [what, found] of [
          ["recorded", recorded!],
          ["replayed", replayed!],
        ] as const) {
          expect(found, `${precision}, ${what}`).to.deep.equal(as);
        }
      }
    } finally {
      configureRuntime({ deterministic: false });
    }
  });

  it("takes a window from the host, from the GPU in any integer dtype, and half from each", async () => {
    await using model = await onGpu({ precision: "float64" });
    const start = await carried(model),
      exact = await composed(model, { seed: 3 }, start);
    await thrice(model, { seed: 3 }, start);
    const there =
      (dtype: "int32" | "int64" | null, also = 0) =>
      (segment: SegmentTensors, t: number): SegmentTensors => {
        const move = (tensor: Tensor, to: DType | null): Tensor =>
          applyOperator("aten::_to_copy", tensor, to, null, GPU);
        return t < also
          ? segment
          : {
              ...segment,
              source: move(segment.source, dtype),
              target: move(segment.target, dtype),
              reset: move(segment.reset, null),
            };
      };
    for (const [what, place] of Object.entries({
      int32: there("int32"),
      int64: there("int64"),
      "from both": there(null, 2),
    })) {
      for (const i of [0, 1, 2])
        expectClose(`${what}, window ${i}`, await runWindow(model, mrbp, { seed: 3 }, start, {}, place), exact, 1e-10);
    }
  });

  it("follows the weights, the seed, the weight of its loss and the tokens of the call", async () => {
    await using model = await onGpu({ precision: "float64" });
    const start = await carried(model);
    await thrice(model, { seed: 1 }, start);
    await perturb(model, 0.1, 99);
    const given: readonly WindowOptions[] = [
      { seed: 1 },
      { seed: 2 },
      { seed: 2, weights: [0.5, 0, -1, 2] },
      { seed: 2, scale: 0.25 },
      { training: false },
    ];
    for (const options of given) {
      expectClose(
        JSON.stringify(options),
        await runWindow(model, mrbp, options, start),
        await composed(model, options, start),
        1e-10,
      );
    }
  });
});
