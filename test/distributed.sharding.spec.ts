import { expect } from "chai";
import { cp, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TrainOptions } from "../lib/index.ts";
import { weightsOf } from "./support/rank-ends.ts";
import { rankModel, runRanks, type RankEnd, type RankJob } from "./support/ranks.ts";
import { temporary } from "./support/runs.ts";

const model = { ...rankModel, width: 48, feedForward: 72, dropout: 0.1 } as const;
const train = { steps: 12, horizon: 2, learningRate: 1e-2, schedule: "constant", warmup: 0, saveEvery: 6 } as const;
const job: RankJob = { model, train, lanes: 5, join: { silence: 15 } };
const sharded = (given: RankJob = job): RankJob => ({ ...given, train: { ...given.train, shardOptimizer: true } });

/** The files of a checkpoint, but for the option itself and what follows from it. */
async function filesOf(checkpoint: string): Promise<Record<string, string>> {
  const names = (await readdir(checkpoint)).filter((name) => name !== "manifest.json").sort();
  const files = await Promise.all(names.map(async (name) => [name, await readFile(join(checkpoint, name), "base64")]));
  const { "trainer.json": trainer, ...others } = Object.fromEntries(files) as Record<string, string>;
  const { train: options, ...progress } = JSON.parse(Buffer.from(trainer!, "base64").toString()) as { train: object };
  return { ...others, trainer: JSON.stringify({ ...progress, train: { ...options, shardOptimizer: false } }) };
}

describe("ranks that share out the optimizer's moments", function () {
  this.timeout(180_000);

  /**
   * Of two moments of all parameters each rank has 1/N, but for matrices that stay whole and what allocators round up.
   */
  function expectShares(parts: readonly RankEnd[], whole: readonly RankEnd[], bytes: number): void {
    for (const [rank, { hostBytes }] of parts.entries()) {
      const saved = (whole[rank]!.hostBytes! - hostBytes!) / (2 * bytes * whole[rank]!.parameters!);
      expect(saved, `rank ${rank} of ${parts.length}`).to.be.closeTo(1 - 1 / parts.length, 0.05);
    }
  }

  it("take the steps of ranks that do not, to the bit, and hold only their share: AdamW, 3 ranks", async () => {
    const options = { ...train, optimizer: "adamw" } as const satisfies TrainOptions;
    const given = { ...job, model: { ...model, precision: "float64" as const }, train: options };
    const [whole, parts] = await Promise.all([runRanks(3, given), runRanks(3, sharded(given))]);
    expect(weightsOf(parts)).to.equal(weightsOf(whole));
    expectShares(parts, whole, 8);
  });

  it("and with Muon write one whole checkpoint, equal to that without shares, from which any number goes on", async () => {
    const folder = await temporary();
    try {
      const at = (name: string): string => join(folder.path, name);
      const run = async (world: number, name: string, given: RankJob, resume = false): Promise<RankEnd[]> =>
        runRanks(world, { ...given, checkpoints: at(name), resume, part: 20_000 });
      const [whole, parts] = await Promise.all([run(2, "whole", job), run(2, "parts", sharded())]);
      expect(weightsOf(parts)).to.equal(weightsOf(whole));
      expectShares(parts, whole, 4);
      for (const step of ["step-000006", "step-000012"])
        expect(await filesOf(join(at("parts"), step))).to.deep.equal(await filesOf(join(at("whole"), step)));

      const longer = { ...job, train: { ...train, steps: 15 } };
      const resumed = async (world: number, from: string, given: RankJob): Promise<string> => {
        await cp(at(from), at(`${from}-${world}`), { recursive: true });
        return weightsOf(await run(world, `${from}-${world}`, given, true));
      };
      const [three, threeOfWhole] = [resumed(3, "parts", sharded(longer)), resumed(3, "whole", longer)];
      expect(await three).to.equal(await threeOfWhole);
      const [one, oneOfWhole] = [resumed(0, "parts", longer), resumed(0, "whole", sharded(longer))];
      expect(await one).to.equal(await oneOfWhole);
    } finally {
      await folder.remove();
    }
  });

  it("all end where rank 0 cannot write what the others give it", async () => {
    const folder = await temporary();
    try {
      await writeFile(join(folder.path, "file"), "");
      const ends = await runRanks(2, { ...sharded(), checkpoints: join(folder.path, "file", "checkpoints") });
      expect(ends.map(({ code }) => code)).to.deep.equal([1, 1]);
      expect(ends[0]!.error?.code).to.equal("ERR_MEMFORMER_IO");
      expect(ends[1]!.error?.message).to.match(/^the checkpoint has failed on rank 0: .*ENOTDIR/);
    } finally {
      await folder.remove();
    }
  });
});
