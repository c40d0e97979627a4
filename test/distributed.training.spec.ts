import { expect } from "chai";
import { join } from "node:path";
import type { TrainOptions } from "../lib/index.ts";
import { distance, healthy } from "./support/rank-ends.ts";
import { rankModel, rankTrain, runRanks, type RankEnd, type RankJob } from "./support/ranks.ts";
import { temporary } from "./support/runs.ts";

const [model, train] = [{ ...rankModel, dropout: 0.1 } as const, rankTrain];
const job: RankJob = { model: { ...model, precision: "float64" }, train, lanes: 5, join: { silence: 15 } };

describe("ranks that train together", function () {
  this.timeout(180_000);

  for (const [precision, limit] of [
    ["float64", 1e-12],
    ["float32", 1e-6],
  ] as const)
    for (const options of [{ weights: "tokens" }, { weights: "segments", microBatch: 2 }] satisfies TrainOptions[]) {
      if (precision === "float32" && options.weights === "segments") continue;
      it(`have the gradient of one process with all lanes: ${precision}, ${JSON.stringify(options)}, padded and reset rows, dropout`, async () => {
        const given = { ...job, gradient: true, model: { ...model, precision }, train: { ...train, ...options } };
        const [[one], ...several] = (await Promise.all([0, 2, 3].map(async (world) => runRanks(world, given)))) as [
          RankEnd[],
          ...RankEnd[][],
        ];
        healthy([one!, ...several.flat()]);
        for (const end of several.flat()) {
          const { difference, norm } = distance(end, one!, precision);
          expect(norm).to.be.above(0.1);
          expect(difference / norm).to.be.at.most(limit);
        }
      });
    }

  it("limit the memory's gradient as one process does whose micro-batches are the ranks' rows", async () => {
    const limited = { ...job.model, memoryGradientLimit: 0.5 };
    const given = { ...job, lanes: 4, gradient: true, model: limited },
      micro = { ...given, train: { ...train, microBatch: 2 } };
    const [[whole], [parts], ranks] = await Promise.all([runRanks(0, given), runRanks(0, micro), runRanks(2, given)]);
    healthy([whole!, parts!, ...ranks]);
    const off = (found: RankEnd, expected: RankEnd): number => {
      const { difference, norm } = distance(found, expected, "float64");
      return difference / norm;
    };
    for (const end of ranks) expect(off(end, parts!)).to.be.at.most(1e-12);
    expect(off(ranks[0]!, whole!)).to.be.above(1e-6);
  });

  it("end 50 steps on weights equal to the bit, on the curve of one process, states passed between rows included", async () => {
    const given = { ...job, train: { ...train, statePassing: 0.3 } };
    const [[one], three] = await Promise.all([runRanks(0, given), runRanks(3, given)]);
    healthy([one!, ...three]);
    expect(new Set(three.map(({ weights }) => weights)).size).to.equal(1);
    for (const { steps } of three) {
      expect(steps).to.have.length(50);
      for (const [i, { loss, memoryGradientNorm, tokens }] of steps.entries()) {
        expect(loss, `step ${i + 1}`).to.be.closeTo(one!.steps[i]!.loss, 1e-9);
        expect(memoryGradientNorm, `step ${i + 1}`).to.be.closeTo(one!.steps[i]!.memoryGradientNorm, 1e-9);
        expect(tokens).to.equal(one!.steps[i]!.tokens);
      }
    }
    expect(three[0]!.steps.at(-1)!.loss).to.be.below(three[0]!.steps[0]!.loss - 0.5);
  });

  it("go on as 3 from what 2 have saved, and as one from what 3 have, on one curve", async () => {
    const folder = await temporary();
    try {
      const checkpoints = join(folder.path, "checkpoints");
      const steps: RankEnd["steps"] = [];
      for (const [world, last] of [
        [2, 8],
        [3, 16],
        [0, 24],
      ] as const) {
        const ends = await runRanks(world, {
          ...job,
          checkpoints,
          resume: last > 8,
          evaluates: true,
          train: { ...train, steps: last, saveEvery: 5, evaluateEvery: 4 },
        });
        healthy(ends);
        steps.push(...ends[0]!.steps);
      }
      const [one] = await runRanks(0, { ...job, train: { ...train, steps: 24 } });
      expect(steps.map(({ step }) => step)).to.deep.equal(one!.steps.map(({ step }) => step));
      for (const [i, { loss, tokens }] of steps.entries()) {
        expect(loss, `step ${i + 1}`).to.be.closeTo(one!.steps[i]!.loss, 1e-9);
        expect(tokens).to.equal(one!.steps[i]!.tokens);
      }
    } finally {
      await folder.remove();
    }
  });

  it("stop after the same step when one of them is told to", async () => {
    const ends = await runRanks(2, { ...job, train: { ...train, steps: 10_000 }, stopAt: { rank: 1, step: 4 } });
    healthy(ends);
    const [first, second] = ends.map(({ steps }) => steps.at(-1)!.step);
    expect(first).to.equal(second).and.be.within(5, 6);
    expect(ends[0]!.weights).to.equal(ends[1]!.weights);
  });
});
