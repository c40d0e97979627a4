/** The recall task in a small form; `memformer experiment recall` is the whole one. */
import { expect } from "chai";
import { Memformer } from "../lib/index.ts";
import { recallAccuracy, recallModel, type RecallRun, trainRecall } from "../lib/experiments/recall-task.ts";

describe("recall: a key shown segments before it is asked for", function () {
  this.timeout(300_000);
  const run: RecallRun = { lanes: 32, segmentLength: 6, keys: 8, minLag: 1, maxLag: 3 };
  const training = { learningRate: 2e-3, warmup: 20, weightDecay: 0.01, schedule: "linear" } as const;

  it("is learned by MRBP over a horizon that spans it, through the memory and nothing else", async () => {
    await using model = await Memformer.create(recallModel(run));
    await trainRecall(model, run, [{ trainLag: 3, horizon: 8, steps: 150 }], training);
    expect(await recallAccuracy(model, run, 60)).to.be.at.least(0.99);
    expect(await recallAccuracy(model, run, 60, true), "with the memory zeroed").to.be.below(0.25);
  });

  it("is not learned with horizon 1, where no gradient crosses a segment", async () => {
    await using model = await Memformer.create(recallModel(run));
    await trainRecall(model, run, [{ trainLag: 3, horizon: 1, steps: 600 }], training);
    expect(await recallAccuracy(model, run, 60)).to.be.below(0.3);
  });
});
