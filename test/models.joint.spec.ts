import { expect } from "chai";
import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import {
  AdamW,
  bptt,
  checkpointing,
  evaluate,
  mrbp,
  plainOptions,
  Tensor,
  tidy,
  Trainer,
  type CreateOptions,
  type GradientMethod,
  type Memformer,
  type TrainOptions,
  type TrainStep,
  type WindowOptions,
} from "../lib/index.ts";
import { bits, numbers, perturb, randomWindow } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { contents, runModel, task, temporary } from "./support/runs.ts";
import { Series } from "./support/series.ts";

const files = ["model.safetensors", "optimizer.safetensors", "state.safetensors", "trainer.json", "config.json"];

async function series(options: CreateOptions = {}): Promise<Series> {
  const shared = { ...plainOptions, precision: "float64", device: "cpu", ...options } as const;
  const lower = await runModel({ ...shared, architecture: "encoder", encoderLayers: 1, memorySlots: 3, seed: 1 });
  return new Series({ lower, upper: await runModel({ ...shared, encoderLayers: 1, decoderLayers: 1, seed: 2 }) });
}

/** Losses, state and gradients of a window of 4 segments of 4 rows, as numbers. */
async function gathered(model: Series, method: GradientMethod, options: WindowOptions): Promise<number[][]> {
  model.zeroGradients();
  const start = model.initialState(4);
  const { losses, counts, state, gradient } = tidy(() => {
    const window = randomWindow(model.members.lower).map((segment) => model.upload(segment));
    return method(model, window, start, options);
  });
  for (const tensor of start) tensor.dispose();
  const gradients = model.parameters.map(({ name }) => model.gradient(name));
  return numbers([...losses, ...counts, ...state, ...gradient, ...gradients]);
}

async function train(
  model: Series,
  options: TrainOptions,
  how: { checkpoints?: string; resume?: boolean } = {},
): Promise<TrainStep[]> {
  using trainer = new Trainer(model, options);
  const steps: TrainStep[] = [];
  for await (const step of trainer.run(task(), how)) steps.push(step);
  return steps;
}

describe("two models in series with one loss", function () {
  this.timeout(120_000);

  it("MRBP and checkpointing give the gradient of BPTT, through both memories", async () => {
    await using model = await series({ dropout: 0.1 });
    await perturb(model.members.lower, 0.1);
    await perturb(model.members.upper, 0.1, 6);
    for (const options of [{ seed: 3 }, { seed: 4, carry: 2, weights: "doubling" }] as const) {
      const exact = await gathered(model, bptt, options);
      const close = (found: number[][], name: string): void => {
        const [a, b] = [found.flat(), exact.flat()];
        expect(a.length).to.equal(b.length);
        const worst = Math.max(...a.map((value, i) => Math.abs(value - b[i]!) / Math.max(1, Math.abs(b[i]!))));
        expect(worst, name).to.be.below(1e-11);
      };
      close(await gathered(model, checkpointing, options), "checkpointing");
      for (const segmentsPerStep of [1, 2, 4])
        close(await gathered(model, mrbp, { ...options, segmentsPerStep }), `mrbp, ${segmentsPerStep} per step`);
    }
  });

  it("the loss reaches the lower model, and its memory, as finite differences say", async () => {
    await using model = await series();
    const window = randomWindow(model.members.lower),
      start = model.initialState(4); // which has no gradient of its own
    const loss = (backward: boolean): Tensor =>
      tidy(() => {
        const uploaded = window.map((segment) => model.upload(segment));
        const method = backward ? mrbp : checkpointing;
        return method(model, uploaded, start, { weights: [0, 0, 0, 1] }).losses[3]!;
      });
    for (const name of ["lower.embedding.weight", "lower.writer.v_bias", "upper.writer.value.weight"]) {
      const parameter = model.parameters.find((one) => one.name === name);
      expect(parameter, name).to.not.equal(undefined);
      model.zeroGradients();
      loss(true).dispose();
      const [gradient] = await numbers([model.gradient(name)]),
        [values] = await numbers([model.parameter(name)]);
      const at = gradient!.reduce((most, value, i) => (Math.abs(value) > Math.abs(gradient![most]!) ? i : most), 0);
      const moved = async (by: number): Promise<number> => {
        using value = Tensor.from(
          Float64Array.from(values!, (old, i) => (i === at ? old + by : old)),
          parameter!.shape,
        );
        model.assign(name, value);
        using found = loss(false);
        return found.item();
      };
      const difference = ((await moved(1e-5)) - (await moved(-1e-5))) / 2e-5;
      await moved(0);
      expect(Math.abs(gradient![at]!), name).to.be.above(1e-6);
      expect(gradient![at]!, name).to.be.closeTo(difference, 1e-6 * Math.max(1, Math.abs(difference)));
    }
  });

  for (const optimizer of ["adamw", "muon"] as const) {
    it(`Trainer lowers the loss by MRBP with ${optimizer}, and every parameter moves`, async () => {
      await using model = await series({ precision: "float32" });
      const before = await numbers(model.parameters.map(({ name }) => model.parameter(name)));
      const steps = await train(model, { steps: 60, horizon: 3, learningRate: 1e-2, warmup: 5, optimizer });
      const mean = (some: readonly TrainStep[]): number => some.reduce((sum, { loss }) => sum + loss, 0) / some.length;
      expect(mean(steps.slice(-10))).to.be.below(0.9 * mean(steps.slice(0, 5)));
      const after = await numbers(model.parameters.map(({ name }) => model.parameter(name)));
      const still = model.parameters.filter((_, i) => before[i]!.every((value, j) => value === after[i]![j]));
      expect(still.map(({ name }) => name)).to.deep.equal([]);
    });
  }

  it("clips by the norm over both models", async () => {
    await using model = await series();
    const window = randomWindow(model.members.lower);
    const gather = (): void => {
      model.zeroGradients();
      tidy(() =>
        mrbp(
          model,
          window.map((segment) => model.upload(segment)),
          model.initialState(4),
        ),
      );
    };
    const all = async (): Promise<number[]> =>
      (await numbers(model.parameters.map(({ name }) => model.gradient(name)))).flat();
    gather();
    const exact = await all(),
      norm = Math.hypot(...exact);
    using told = model.clipGradients(norm / 4);
    expect(await told.item()).to.be.closeTo(norm, 1e-9 * norm);
    (await all()).forEach((value, i) => {
      expect(value).to.be.closeTo(exact[i]! / 4, 1e-5 * norm);
    });

    // By the optimizer likewise: the first step of AdamW is the same for any scale, moments are not.
    gather();
    using optimizer = new AdamW(model);
    using plain = model.clipGradients(0);
    optimizer.step(1e-3, plain, norm / 4);
    const name = model.parameters.find((_, i) => i === 0)!.name;
    using moment = optimizer.tensor(`${name}.exp_avg`);
    const values = [...(await moment.data())].map(Number);
    values.forEach((value, i) => {
      expect(value).to.be.closeTo(0.1 * (exact[i]! / 4), 1e-6 * norm);
    });
  });

  it("resumes from a checkpoint to the bit, and refuses one of other models", async () => {
    const { path, remove } = await temporary();
    try {
      const options = { horizon: 2, learningRate: 1e-2, saveEvery: 3 } as const;
      const whole = join(path, "whole"),
        half = join(path, "half");
      await using one = await series({ precision: "float32" });
      await train(one, { ...options, steps: 6 }, { checkpoints: whole });
      await cp(whole, half, { recursive: true });
      await rm(join(half, "step-000006"), { recursive: true });
      await rm(join(half, "last.json"));
      await using other = await series({ precision: "float32" });
      await train(other, { ...options, steps: 6 }, { checkpoints: half, resume: true });
      expect(await contents(join(half, "step-000006"), files)).to.deep.equal(
        await contents(join(whole, "step-000006"), files),
      );

      await rm(join(half, "step-000006"), { recursive: true });
      await using wider = await series({ precision: "float32", feedForward: 40 });
      const { code, message } = await failure(
        train(wider, { ...options, steps: 6 }, { checkpoints: half, resume: true }),
      );
      expect(code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
      expect(message).to.include("members");
    } finally {
      await remove();
    }
  });

  it("evaluate scores it, with ablations of both memories", async () => {
    await using model = await series();
    const { bitsPerToken, ablations } = await evaluate(model, task(), { segments: 6 });
    expect(bitsPerToken).to.be.within(0, 10);
    expect(ablations.zeroed!.bitsPerToken).to.not.equal(bitsPerToken);
  });

  it("parameters are named by member, and end with it", async () => {
    const model = await series();
    expect(new Set(model.parameters.map(({ name }) => name.split(".")[0]))).to.deep.equal(new Set(["lower", "upper"]));
    expect(model.stateLayout.map(({ name }) => name)).to.deep.equal(["lower.memory", "upper.memory"]);
    using mine = model.parameter("lower.embedding.weight");
    using its = model.members.lower.parameter("embedding.weight");
    expect(await bits(mine)).to.equal(await bits(its));
    expect(() => model.parameter("middle.embedding.weight")).to.throw(/no parameter 'middle.embedding.weight'/);
    expect(() => model.statesOf([])).to.throw(/2 tensor/);
    await model.dispose();
    expect(model.members.lower.disposed && model.members.upper.disposed && model.disposed).to.equal(true);
    expect(() => new AdamW(model)).to.throw(/disposed/);
  });

  it("refuses members that do not go together", async () => {
    await using lower = await runModel({ architecture: "encoder", device: "cpu" });
    await using upper = await runModel({ device: "cpu", precision: "float64" });
    const made =
      (members: Record<string, Memformer>): (() => Series) =>
      () =>
        new Series(members as unknown as Series["members"]);
    expect(made({})).to.throw(/at least one member/);
    expect(made({ lower, upper })).to.throw(/one precision, got "float32" of lower and "float64" of upper/);
    expect(made({ lower, again: lower })).to.throw(/share their parameters/);
    expect(made({ "a.b": lower })).to.throw(/letters, digits/);
  });
});
