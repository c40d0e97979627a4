/** A training inside a run that ends between its last step and its row: while the model is scored, say. */
import { expect } from "chai";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Memformer, RecallStream } from "../lib/index.ts";
import { recallModel } from "../lib/experiments/recall-task.ts";
import { trained, type Trained } from "../lib/experiments/training.ts";

describe("experiments: a training that is over", function () {
  this.timeout(120_000);

  it("is not made again, and what it gave is not lost", async () => {
    const folder = await mkdtemp(join(tmpdir(), "memformer-trained-")),
      checkpoints = join(folder, "run"),
      task = { lanes: 2, segmentLength: 4, keys: 4, minLag: 1, maxLag: 2 };
    const train = async (): Promise<readonly [Trained, string]> => {
      await using model = await Memformer.create({ ...recallModel(task), width: 16, feedForward: 16, device: "cpu" });
      const made = await trained(
        model,
        new RecallStream({ ...task, seed: 1 }),
        { steps: 200, horizon: 1, learningRate: 1e-3 },
        { checkpoints, signal: undefined, note: () => undefined },
      );
      using weight = model.parameter("embedding.weight");
      return [made, Buffer.from((await weight.read()).data).toString("hex")];
    };
    try {
      const [first, weights] = await train();
      await writeFile(join(checkpoints, "wall-clock.json"), "{}"); // what else lies there does not matter
      const [again, same] = await train();
      expect(first.tokens).to.be.above(0);
      expect(again).to.deep.equal(first);
      expect(same).to.equal(weights);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
