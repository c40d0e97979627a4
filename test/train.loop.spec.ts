import { expect } from "chai";
import { CheckpointStore, verify } from "../lib/checkpoint/store.ts";
import {
  memoryUsage,
  PADDING,
  synchronize,
  Tensor,
  Trainer,
  type Memformer,
  type Segment,
  type SegmentStream,
} from "../lib/index.ts";
import { failure } from "./support/failure.ts";
import { runModel, task, temporary, train, weights } from "./support/runs.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";

let folder: Awaited<ReturnType<typeof temporary>>;

/** A stream that ends after so many segments. */
function short(segments: number): SegmentStream {
  const endless = task();
  let read = 0;
  const { lanes, segmentLength, vocabulary, bos } = endless;
  return {
    lanes,
    segmentLength,
    vocabulary,
    bos,
    next: async () => (read++ < segments ? endless.next() : undefined),
    position: () => endless.position(),
    seek: (position) => {
      endless.seek(position as never);
    },
  };
}

/** One segment for ever: what is learned is what its tokens are. */
function constant(): SegmentStream {
  const tokens = Int32Array.from([1, 2, 3, 4, 5, 6, 7, 8]);
  const segment: Segment = {
    batch: 1,
    length: 8,
    source: tokens,
    target: Int32Array.from([8, 7, 6, 5, 4, 3, 2, PADDING]),
    reset: Uint8Array.of(0),
  };
  return {
    lanes: 1,
    segmentLength: 8,
    vocabulary: 18,
    bos: 17,
    next: async () => segment,
    position: () => null,
    seek: () => undefined,
  };
}

/** One that has made what it keeps for good, as tables of positions. */
async function warmModel(): Promise<Memformer> {
  const model = await runModel();
  (await train(model, { steps: 1, horizon: 2 })).trainer.dispose();
  await synchronize();
  return model;
}

describe("training", function () {
  this.timeout(120_000);
  beforeEach(async () => {
    folder = await temporary();
  });
  afterEach(async () => folder.remove());

  it("lets the loss fall, by every method alike", async () => {
    const curves: number[][] = [];
    for (const method of ["mrbp", "bptt", "checkpointing"] as const) {
      await using model = await runModel({ precision: "float64", dropout: 0.1 });
      const options = { steps: 80, horizon: 2, warmup: 5, learningRate: 2e-2, method };
      const { steps } = await train(model, options, {}, constant() as never);
      expect(steps[0]!.loss).to.be.closeTo(Math.log(18), 0.3);
      expect(steps.at(-1)!.loss).to.be.below(0.5);
      curves.push(steps.map(({ loss }) => loss));
    }
    for (const curve of curves.slice(1)) {
      curve.forEach((loss, i) => {
        expect(loss).to.be.closeTo(curves[0]![i]!, 1e-6);
      });
    }
  });

  it("learns the same a few rows at a time, and refuses a number of rows that is none", async () => {
    const curves: number[][] = [];
    for (const microBatch of [undefined, 3]) {
      // The limit compares a row with those beside it, which are fewer in a micro-batch.
      await using model = await runModel({ precision: "float64", dropout: 0, memoryGradientLimit: 0 });
      const { steps } = await train(
        model,
        { steps: 20, horizon: 3, overlap: 1, warmup: 5, learningRate: 1e-2, microBatch },
        {},
        task(5),
      );
      expect(steps.at(-1)!.loss).to.be.below(steps[0]!.loss);
      curves.push(
        steps.flatMap(({ loss, gradientNorm, memoryGradientNorm, tokens }) => [
          loss,
          gradientNorm,
          memoryGradientNorm,
          tokens,
        ]),
      );
    }
    curves[1]!.forEach((value, i) => {
      expect(value).to.be.closeTo(curves[0]![i]!, 1e-8);
    });
    await using model = await runModel();
    expect(() => new Trainer(model, { microBatch: 0 }))
      .to.throw(/train: microBatch: .*, got 0/)
      .with.property("code", "ERR_MEMFORMER_CONFIG");
  });

  it("reports each step: counts of tokens, norms, rate, memory in use", async () => {
    await using model = await runModel();
    const { steps, trainer } = await train(model, { steps: 3, horizon: 4, overlap: 1, accumulate: 2, warmup: 2 });
    expect(steps.map(({ step }) => step)).to.deep.equal([1, 2, 3]);
    expect(trainer.step).to.equal(3);
    for (const [i, step] of steps.entries()) {
      expect(step.tokens).to.be.above(i === 0 ? 0 : steps[i - 1]!.tokens);
      for (const value of [
        step.loss,
        step.gradientNorm,
        step.memoryGradientNorm,
        step.learningRate,
        step.tokensPerSecond,
      ]) {
        expect(Number.isFinite(value)).to.be.true;
      }
      expect(step.gradientNorm).to.be.above(0);
      expect(step.memoryUsage.hostBytes).to.be.above(4 * model.parameterCount);
    }
    expect(steps[0]!.learningRate).to.equal(1e-3);
  });

  it("stops at a loss that is not finite: names the step, changes nothing, keeps the last checkpoint", async () => {
    await using model = await runModel();
    const checkpoints = folder.path,
      trainer = new Trainer(model, { steps: 10, horizon: 2, saveEvery: 1 });
    let poisoned: Map<string, string> | undefined;
    const name = model.parameters.find(({ shape }) => shape.length === 2)!;
    const work = async (): Promise<void> => {
      for await (const { step } of trainer.run(task(), { checkpoints })) {
        if (step !== 3) continue;
        using bad = Tensor.from(new Float32Array(name.shape[0]! * name.shape[1]!).fill(NaN), name.shape);
        model.assign(name.name, bad);
        poisoned = await weights(model);
      }
    };
    const error = await failure(work());
    expect(error.code).to.equal("ERR_MEMFORMER_NAN_LOSS");
    expect(error.message).to.match(/step 4/);
    expect(error.details).to.include({ step: 4 });
    expect(await weights(model)).to.deep.equal(poisoned);
    expect(trainer.step).to.equal(3);
    const last = (await new CheckpointStore(checkpoints).last())!;
    expect(error.message).to.include(last);
    await verify(last);
    await using fresh = await runModel({ seed: 9 });
    const resumed = await train(fresh, { steps: 5, horizon: 2 }, { checkpoints, resume: true });
    expect(resumed.steps.map(({ step, loss }) => [step, Number.isFinite(loss)])).to.deep.equal([
      [4, true],
      [5, true],
    ]);
  });

  it("evaluates at its cadence, and keeps the best checkpoint beside the newest", async () => {
    await using model = await runModel();
    const scores = [3, 1, 2, 5],
      asked: number[] = [];
    const { steps } = await train(
      model,
      { steps: 4, horizon: 1, evaluateEvery: 1, saveEvery: 1, keep: 1 },
      {
        checkpoints: folder.path,
        evaluate: async (_, step) => {
          asked.push(step);
          return scores[step - 1]!;
        },
      },
    );
    expect(asked).to.deep.equal([1, 2, 3, 4]);
    expect(steps.map(({ evaluation }) => evaluation)).to.deep.equal(scores);
    const store = new CheckpointStore(folder.path);
    expect(await store.best()).to.match(/step-000002$/);
    expect(await store.last()).to.match(/step-000004$/);
    expect((await store.list()).map(({ step }) => step)).to.deep.equal([2, 4]);
  });

  it("leaves a checkpoint of the last whole step when the stream ends, and says so", async () => {
    await using model = await runModel();
    const trainer = new Trainer(model, { steps: 9, horizon: 2 }),
      seen: number[] = [];
    const work = async (): Promise<void> => {
      for await (const { step } of trainer.run(short(7), { checkpoints: folder.path })) seen.push(step);
    };
    const error = await failure(work());
    expect(error.code).to.equal("ERR_MEMFORMER_DATA");
    expect(error.message).to.match(/after step 3 of 9/);
    expect(seen).to.deep.equal([1, 2, 3]);
    expect(await new CheckpointStore(folder.path).last()).to.match(/step-000003$/);
  });

  it("stopped while it evaluates ends at once, with a checkpoint of the step before", async () => {
    await using model = await runModel();
    const trainer = new Trainer(model, { steps: 9, horizon: 1, evaluateEvery: 2 }),
      seen: unknown[] = [];
    const evaluate = async (_: unknown, __: number, signal: AbortSignal): Promise<number> => {
      trainer.stop();
      await new Promise((_resolve, reject) => {
        if (signal.aborted) reject(signal.reason as Error);
        signal.addEventListener("abort", () => {
          reject(signal.reason as Error);
        });
      });
      return 0;
    };
    for await (const { step, evaluation, checkpoint } of trainer.run(task(), { checkpoints: folder.path, evaluate })) {
      seen.push([step, evaluation, checkpoint !== undefined]);
    }
    expect(seen).to.deep.equal([
      [1, undefined, false],
      [2, undefined, true],
    ]);
    expect((await new CheckpointStore(folder.path).list()).map(({ step }) => step)).to.deep.equal([2]);
  });

  it("keeps the step before an evaluation that fails", async () => {
    await using model = await runModel();
    const evaluate = async (): Promise<number> => Promise.reject(new Error("no such text"));
    const error = await failure(
      train(model, { steps: 9, horizon: 1, evaluateEvery: 3 }, { checkpoints: folder.path, evaluate }),
    );
    expect(error.message).to.equal("no such text");
    expect((await new CheckpointStore(folder.path).list()).map(({ step }) => step)).to.deep.equal([3]);
  });

  it("stopped from inside the loop ends with a checkpoint of that step", async () => {
    await using model = await runModel();
    const trainer = new Trainer(model, { steps: 100, horizon: 2 });
    for await (const { step } of trainer.run(task(), { checkpoints: folder.path })) if (step === 2) trainer.stop();
    expect(trainer.step).to.equal(2);
    expect(await new CheckpointStore(folder.path).last()).to.match(/step-000002$/);
  });

  it("aborted in the middle of a step rejects with the signal's reason, weights those of a whole step", async () => {
    await using model = await runModel(),
      same = await runModel();
    const controller = new AbortController(),
      trainer = new Trainer(model, { steps: 1000, horizon: 8 });
    class Enough extends Error {}
    const work = async (): Promise<void> => {
      for await (const { step } of trainer.run(task(), { signal: controller.signal })) {
        if (step === 3)
          setTimeout(() => {
            controller.abort(new Enough());
          }, 5);
      }
    };
    expect(await failure(work())).to.be.instanceOf(Enough);
    const made = trainer.step;
    expect(made).to.be.at.least(3);
    const until = new Trainer(same, { steps: 1000, horizon: 8 });
    for await (const { step } of until.run(task())) if (step === made) until.stop();
    expect(await weights(model)).to.deep.equal(await weights(same));
    expect(await failure(trainer.run(task(), { signal: controller.signal }).next())).to.be.instanceOf(Enough);
  });

  it("shows the weights and the memory of the last step between two steps, while it computes the next one's gradient", async () => {
    await using model = await runModel();
    const seen: Map<string, string>[] = [],
      wanted: Map<string, string>[] = [];
    for await (const step of new Trainer(model, { steps: 4, horizon: 2 }).run(task())) {
      if (step.step < 4) await synchronize(); // the gradient of the next step is there
      seen.push(await weights(model));
    }
    for (let made = 1; made <= 4; made++) {
      await using fresh = await runModel();
      const trainer = new Trainer(fresh, { steps: 4, horizon: 2 });
      for await (const { step } of trainer.run(task())) if (step === made) trainer.stop();
      wanted.push(await weights(fresh));
      trainer.dispose();
    }
    expect(seen).to.deep.equal(wanted);
    expect(wanted[1]).to.not.deep.equal(wanted[0]);
  });

  for (const [what, change] of Object.entries({
    "weights that are assigned": (model: Memformer): void => {
      const { name, shape } = model.parameters.find((parameter) => parameter.shape.length === 2)!;
      using fresh = Tensor.from(
        Float32Array.from({ length: shape[0]! * shape[1]! }, (_, i) => Math.sin(i) / 4),
        shape,
      );
      model.assign(name, fresh);
    },
    "gradients that are dropped": (model: Memformer): void => {
      model.zeroGradients();
    },
  })) {
    it(`takes ${what} between two steps as if it had not begun the next`, async () => {
      const results: unknown[] = [];
      for (const aheadOfCheckpoints of [true, false]) {
        await using model = await runModel();
        // A run that writes a checkpoint after each step never begins the next one before the caller has had its turn.
        const how = aheadOfCheckpoints ? {} : { checkpoints: folder.path },
          options = { steps: 4, horizon: 2, saveEvery: aheadOfCheckpoints ? 0 : 1 };
        const trainer = new Trainer(model, options),
          losses: number[] = [];
        for await (const { step, loss, gradientNorm } of trainer.run(task(), how)) {
          losses.push(loss, gradientNorm);
          if (step === 2) change(model);
        }
        results.push([losses, await weights(model)]);
      }
      expect(results[0]).to.deep.equal(results[1]);
    });
  }

  it("left in the middle forgets the gradient it had begun", async () => {
    const results: Map<string, string>[] = [];
    for (const leave of ["break", "stop"]) {
      await using model = await runModel();
      const first = new Trainer(model, { steps: 9, horizon: 2 });
      for await (const { step } of first.run(task())) {
        if (step < 2) continue;
        if (leave === "break") break;
        first.stop();
      }
      const { trainer } = await train(model, { steps: 2, horizon: 2 });
      results.push(await weights(model));
      first.dispose();
      trainer.dispose();
    }
    expect(results[0]).to.deep.equal(results[1]);
  });

  it("disposed of gives back its moments and the carried memory, and runs no more; the model stays", async () => {
    await using model = await warmModel();
    const before = (await memoryAtRest()).hostBytes,
      { trainer } = await train(model, { steps: 3, horizon: 2 });
    await synchronize();
    expect(memoryUsage().hostBytes - before).to.be.above(2 * 4 * model.parameterCount);
    trainer.dispose();
    trainer.dispose();
    await synchronize();
    expect(memoryUsage().hostBytes).to.be.at.most(before);
    expect((await failure(trainer.run(task()).next())).code).to.equal("ERR_MEMFORMER_DISPOSED");
    expect((await train(model, { steps: 1, horizon: 2 })).steps).to.have.length(1);
  });

  it("disposed of in the middle of a run ends it, with nothing left behind", async () => {
    await using model = await warmModel();
    const before = memoryUsage().hostBytes;
    for (const when of ["between steps", "in a step"]) {
      const trainer = new Trainer(model, { steps: 10, horizon: 2 }),
        run = trainer.run(task());
      await run.next();
      const next = when === "in a step" ? failure(run.next()) : undefined;
      await new Promise(setImmediate);
      trainer.dispose();
      const error = await (next ?? failure(run.next()));
      expect(error.code, when).to.equal("ERR_MEMFORMER_DISPOSED");
      await synchronize();
      expect(memoryUsage().hostBytes, when).to.be.at.most(before);
    }
  });

  it("refuses an unknown option and names the one meant; a value out of range likewise", async () => {
    await using model = await runModel();
    const error = (options: object): Error => {
      try {
        new Trainer(model, options);
      } catch (thrown) {
        return thrown as Error;
      }
      throw new Error("expected to be refused");
    };
    expect(error({ horizn: 8 })).to.have.property("code", "ERR_MEMFORMER_CONFIG");
    expect(error({ horizn: 8 }).message)
      .to.include("horizn")
      .and.include('did you mean "horizon"');
    const wrong = [
      { steps: 0 },
      { learningRate: -1 },
      { clip: -1 },
      { method: "magic" },
      { accumulate: 1.5 },
      { weights: "x" },
      { weights: [0, 0] },
      { weights: [1, -1] },
    ];
    for (const bad of wrong) {
      expect(error(bad), JSON.stringify(bad)).to.have.property("code", "ERR_MEMFORMER_CONFIG");
      expect(error(bad).message).to.include(Object.keys(bad)[0]);
    }
    expect((await failure(train(model, { steps: 1, horizon: 2, overlap: 2 }))).message).to.match(/overlap/);
    expect((await failure(train(model, { steps: 1, horizon: 2, weights: [1, 2, 3] }))).message).to.match(/weights/);
    expect((await failure(runModel({ widht: 8 } as never))).message).to.include('did you mean "width"');
  });
});
