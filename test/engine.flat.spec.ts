import { expect } from "chai";
import { AdamW, evaluate, mrbp, Session, Tensor, tidy, type EvaluatedModel } from "../lib/index.ts";
import { run } from "./support/children.ts";
import { Stateless } from "./support/composed-models.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";
import { numbers, perturb, tinyModel } from "./support/models.ts";
import { runModel, task } from "./support/runs.ts";
import { addGradient, parameterValues } from "./support/training.ts";

const bytesAtRest = async (): Promise<number> => (await memoryAtRest()).hostBytes;

/** The steps that the optimizer counts for each parameter. */
async function stepsOf(optimizer: AdamW): Promise<Set<number>> {
  const counts = new Set<number>();
  for (const { name } of optimizer.tensors.filter((tensor) => tensor.name.endsWith(".step"))) {
    using steps = optimizer.tensor(name);
    counts.add(await steps.item());
  }
  return counts;
}

function assignSteps(optimizer: AdamW, names: readonly string[], steps: (i: number) => number): void {
  for (const [i, name] of names.entries()) {
    using value = Tensor.from(Float32Array.of(steps(i)), []);
    optimizer.assign(`${name}.step`, value);
  }
}

describe("a model's parameters in one buffer", () => {
  it("have no gradients and no moments until something trains: evaluation, sessions, a model of one's own", async () => {
    const scored = async (model: EvaluatedModel): Promise<void> => {
      await evaluate(model, task(), { segments: 4 });
    };
    const none = await bytesAtRest();
    await using model = await runModel({ precision: "float32", vocabulary: 257, width: 64 });
    const bytes = 4 * model.parameterCount,
      made = await bytesAtRest();
    expect(made - none).to.be.within(bytes, 1.3 * bytes);
    await scored(model);
    {
      using session = await Session.open(model);
      await session.read("whales");
      for await (const text of session.generate({ maxTokens: 12 })) void text;
    }
    const evaluated = await bytesAtRest();
    expect(evaluated - made).to.be.below(0.3 * bytes);
    {
      using norm = model.clipGradients(1);
      expect(await norm.item()).to.equal(0);
    }

    addGradient(model, 1);
    expect((await bytesAtRest()) - evaluated).to.be.within(bytes, 1.3 * bytes);

    await using own = await Stateless.create();
    await scored(own); // once: what a first call leaves
    const before = await bytesAtRest();
    await scored(own);
    expect(await bytesAtRest()).to.equal(before);
    // The first gradient that reaches a leaf makes room for all.
    const stream = task();
    await stream.next(); // nothing is asked in it
    const segment = await stream.next();
    tidy(() => mrbp(own, [own.upload(segment)], [], { weights: [2] }).losses.length);
    const [norm, ...gradients] = await numbers([
      own.clipGradients(0),
      ...own.parameters.map(({ name }) => own.gradient(name)),
    ]);
    expect(norm![0]).to.be.closeTo(Math.hypot(...gradients.flat()), 1e-6);
    expect(norm![0]).to.be.above(0);
    expect((await bytesAtRest()) - before).to.be.at.least(4 * own.parameterCount);
  });

  it("give copies of their gradients: a later backward pass or step does not change them", async () => {
    await using model = await tinyModel();
    using optimizer = new AdamW(model);
    addGradient(model, 1);
    using first = model.gradient("encoder.0.feed_forward.up.weight"),
      again = model.gradient("encoder.0.feed_forward.up.weight");
    const wanted = await first.data();
    addGradient(model, 2);
    tidy(() => {
      optimizer.step(1e-2, model.clipGradients(0));
    });
    expect(await again.data()).to.deep.equal(wanted);
    expect(wanted.some((value) => value !== 0)).to.equal(true);
  });

  it("that no gradient ever reached stay as they are, without decay: a twin's writer", async () => {
    await using model = await tinyModel({ memory: false });
    await perturb(model, 0.05);
    using optimizer = new AdamW(model, { weightDecay: 0.5 });
    const before = await parameterValues(model);
    for (const seed of [1, 2, 3]) {
      addGradient(model, seed);
      tidy(() => {
        optimizer.step(1e-2, model.clipGradients(0), 1);
      });
    }
    const after = await parameterValues(model);
    const still = [...before.keys()].filter((name) => after.get(name)!.every((x, i) => x === before.get(name)![i]));
    expect(still).to.include.members(
      model.parameters.map(({ name }) => name).filter((name) => /^writer\..*weight$/.test(name)),
    );
    expect(still).not.to.include("encoder.0.feed_forward.up.weight");
    expect([...(await stepsOf(optimizer))]).to.deep.equal([3]);
  });

  it("take one number of steps from files that counted each parameter's own, in any order", async () => {
    await using model = await tinyModel();
    using optimizer = new AdamW(model);
    const names = model.parameters.map(({ name }) => name);
    assignSteps(optimizer, names, (i) => (i === 0 ? 7 : 0)); // the only one that a gradient reached
    expect([...(await stepsOf(optimizer))]).to.deep.equal([7]);
    assignSteps(optimizer, names, (i) => (i === names.length - 1 ? 4 : 0)); // another file: fewer steps
    expect([...(await stepsOf(optimizer))]).to.deep.equal([4]);
    addGradient(model, 1);
    tidy(() => {
      optimizer.step(1e-3, model.clipGradients(1));
    });
    expect([...(await stepsOf(optimizer))]).to.deep.equal([5]);
    assignSteps(optimizer, names, () => 2);
    expect([...(await stepsOf(optimizer))]).to.deep.equal([2]);
  });
});

describe("the optimizer's kernels on a CPU", () => {
  it("give the same bits on any number of threads, and in parts", async () => {
    const code = `
      const n = 100_003;
      const draw = new lib.Random(1);
      const buffer = (scale) => lib.Tensor.from(Float32Array.from({ length: n }, () => (scale * (draw.below(2001) - 1000)) / 1000), [n]);
      const scalar = (value) => lib.Tensor.from(Float32Array.of(value), []);
      lib.configureRuntime({ threads: Number(process.argv.at(-1)) });
      const buffers = [1, 0.1, 0.1, 0.01].map(buffer);
      const norm = lib.applyOperator("memformer::gradient_norm", buffers[1], null);
      const parts = process.argv.at(-1) === "1" ? [[0, n]] : [[0, 4161], [4161, 70_001], [70_001, n]];
      for (const [begin, end] of parts)
        lib.callOperator("memformer::adamw_step",
          ...buffers.map((one) => lib.applyOperator("aten::slice.Tensor", one, 0, begin, end, 1)), null, scalar(3), norm,
          scalar(1e-3), Math.min(Math.max(50_000 - begin, 0), end - begin), 0.9, 0.95, 1e-8, 0.1, 1, null);
      const hash = (await import("node:crypto")).createHash("sha256");
      const norms = Array.from({ length: 30 }, (_, i) =>
        lib.applyOperator("memformer::gradient_norm",
          lib.applyOperator("aten::slice.Tensor", buffers[0], 0, 0, n - 997 * i, 1), null));
      for (const one of [norm, ...norms, ...buffers]) hash.update(Buffer.from((await one.read()).data));
      console.log("READY" + hash.digest("hex"));`;
    const [one, two, four] = await Promise.all(["1", "2", "4"].map(async (threads) => run(code, { args: [threads] })));
    expect(one!.output, one!.output).to.match(/READY[0-9a-f]{64}/);
    expect(two!.output).to.equal(one!.output);
    expect(four!.output).to.equal(one!.output);
  }).timeout(60_000);
});
