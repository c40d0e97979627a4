/** A training inside a run that ends between its last step and its row: while the model is scored, say. */
import { expect } from "chai";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Memformer, RecallStream } from "../lib/index.ts";
import { recallModel } from "../lib/experiments/recall-task.ts";
import { trained, trainedInStages, type Stage, type Trained } from "../lib/experiments/training.ts";
import { failure } from "./support/failure.ts";

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

describe("experiments: a training in stages", function () {
  this.timeout(120_000);
  const task = { lanes: 2, segmentLength: 4, keys: 4, minLag: 1 };
  /** Each too short to be continued by itself. */
  const stages = (): Stage[] =>
    [120, 80].map((steps, i) => ({
      stream: new RecallStream({ ...task, maxLag: i + 1, seed: 1 }),
      options: { steps, horizon: 1 + i, learningRate: 1e-3 },
    }));
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "memformer-stages-"));
  });
  after(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  /** The weights, and what was noted, of a process that `stopAt`, if it comes, ends. */
  async function train(name: string, stopAt?: string): Promise<{ weights: string; notes: string[] }> {
    const stop = new AbortController(),
      notes: string[] = [];
    await using model = await Memformer.create({ ...recallModel({ ...task, maxLag: 2 }), device: "cpu" });
    const note = (text: string): void => {
      notes.push(text.replace(/:.*/, ""));
      if (stopAt !== undefined && text.startsWith(stopAt)) stop.abort();
    };
    const made = trainedInStages(model, stages(), { checkpoints: join(folder, name), signal: stop.signal, note });
    if (stopAt === undefined) await made;
    else expect((await failure(made)).code).to.equal("ERR_MEMFORMER_ABORTED");
    using weight = model.parameter("embedding.weight");
    return { weights: Buffer.from((await weight.read()).data).toString("hex"), notes };
  }

  const first = Array.from({ length: 10 }, (_, i) => `step ${12 * (i + 1)} of 120`),
    second = Array.from({ length: 10 }, (_, i) => `step ${8 * (i + 1)} of 80`);

  let whole: string;
  it("makes one after the other", async () => {
    const { notes, weights } = await train("whole");
    expect(notes).to.deep.equal(["stage 1 of 2", ...first, "stage 2 of 2", ...second]);
    whole = weights;
  });

  for (const [where, stopAt, left] of [
    ["in the first", "step 48 of 120", [...first.slice(4), "stage 2 of 2", ...second]],
    ["between the two", "stage 2 of 2", ["stage 2 of 2", ...second]],
    ["in the last", "step 40 of 80", ["stage 2 of 2", ...second.slice(5)]],
    ["behind the last", undefined, ["stage 2 of 2"]],
  ] as const) {
    it(`goes on from a stop ${where}, to the bit, and makes nothing twice`, async () => {
      await train(where, stopAt);
      const { weights, notes } = await train(where);
      expect(notes).to.deep.equal(["stage 1 of 2", ...left]);
      expect(weights).to.equal(whole);
    });
  }
});
