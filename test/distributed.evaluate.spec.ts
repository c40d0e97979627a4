import { expect } from "chai";
import { join } from "node:path";
import { CheckpointStore } from "../lib/checkpoint/store.ts";
import { ABLATIONS } from "../lib/index.ts";
import { rankModel, runRanks, type EvaluationJob, type RankEnd, type RankJob } from "./support/ranks.ts";
import { temporary } from "./support/runs.ts";

const model = rankModel;
const wide = { ...model, precision: "float64" } as const;
const asked: readonly EvaluationJob[] = [
  { model: wide },
  { model: { ...wide, architecture: "decoder" }, segments: 9 },
  { model: { ...wide, architecture: "lstm" } },
  { model },
];
const job: RankJob = { model, train: {}, lanes: 7, join: { silence: 15 }, evaluations: asked };

describe("ranks that score a text together", function () {
  this.timeout(180_000);

  it("all get the sums of one process, ablations included, while lanes end and rows are divided anew", async () => {
    const [[one], ...several] = (await Promise.all([0, 2, 3].map(async (world) => runRanks(world, job)))) as [
      RankEnd[],
      ...RankEnd[][],
    ];
    expect(one!.code, JSON.stringify(one!.error) + one!.stderr).to.equal(0);
    for (const ends of several)
      for (const { code, error, stderr, evaluations } of ends) {
        expect(code, JSON.stringify(error) + stderr).to.equal(0);
        for (const [i, expected] of one!.evaluations!.entries()) {
          const found = evaluations![i]!,
            limit = asked[i]!.model.precision === "float64" ? 1e-12 : 1e-6;
          for (const part of ["tokens", "bytes", "documents", "cuts"] as const)
            expect(found[part], part).to.equal(expected[part]);
          expect(Object.keys(found.ablations)).to.deep.equal(Object.keys(expected.ablations));
          for (const name of [undefined, ...ABLATIONS]) {
            const [its, ours] = [found, expected].map((all) => (name === undefined ? all : all.ablations[name]!));
            expect(its!.nats / ours!.nats, `${i} ${name}`).to.be.closeTo(1, limit);
            expect(its!.bitsPerByte / ours!.bitsPerByte, `${i} ${name}`).to.be.closeTo(1, limit);
          }
          expect({ ...found, seconds: 0 }).to.deep.equal({ ...ends[0]!.evaluations![i]!, seconds: 0 });
        }
      }
    const [whole, shuffled] = [one!.evaluations![0]!, one!.evaluations![0]!.ablations.shuffled!];
    expect(Math.abs(shuffled.nats / whole.nats - 1)).to.be.above(1e-6); // a rank's first row reads another's memory
  });

  it("end a run with a checkpoint where the evaluation of one fails: it costs no step", async () => {
    const folder = await temporary();
    try {
      const checkpoints = join(folder.path, "checkpoints"),
        train = { steps: 8, horizon: 2, evaluateEvery: 3 };
      const { evaluations: _, ...trains } = job;
      const ends = await runRanks(2, { ...trains, train, checkpoints, evaluates: true, evaluationFails: 1 });
      expect(ends.map(({ code }) => code)).to.deep.equal([1, 1]);
      expect(ends[1]!.error?.message).to.equal("no text");
      expect(ends[0]!.error?.message).to.equal("the evaluation has failed on rank 1: no text");
      expect(ends[0]!.steps).to.have.length(2);
      expect((await new CheckpointStore(checkpoints).list()).map(({ step }) => step)).to.deep.equal([3]);
    } finally {
      await folder.remove();
    }
  });

  it("all end where one fails, and where they are not asked the same", async () => {
    const [spoiled, other] = await Promise.all([
      runRanks(2, { ...job, evaluations: [{ model, spoiled: 1 }] }),
      runRanks(2, job, (rank) => ({ lanes: 7 + rank })),
    ]);
    expect(spoiled.map(({ code }) => code)).to.deep.equal([1, 1]);
    expect(spoiled[1]!.error?.code).to.equal("ERR_MEMFORMER_NAN_LOSS");
    expect(spoiled[0]!.error?.message).to.match(
      /^the evaluation has failed on rank 1: evaluate: the loss of segment 0/,
    );
    for (const { error } of other)
      expect(error?.message).to.match(/^rank 1 differs from rank 0 in what is evaluated: lanes \(8, rank 0 has 7\)/);
  });
});
