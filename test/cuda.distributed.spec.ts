/** Ranks on GPUs of one host, over NCCL: what the other specs of `distributed` hold on CPUs, over Gloo. */
import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { ABLATIONS } from "../lib/index.ts";
import { openCuda } from "../lib/native/cuda.ts";
import { whyNoGpu } from "./support/gpu.ts";
import { distance, healthy, weightsOf } from "./support/rank-ends.ts";
import { rankModel, rankTrain, runRanks, startRanks, type RankEnd, type RankJob } from "./support/ranks.ts";
import { temporary } from "./support/runs.ts";

const LIMIT = 40; // seconds until all know that one has failed
const main = fileURLToPath(new URL("../lib/cli/main.ts", import.meta.url));
const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;

const [model, train] = [{ ...rankModel, dropout: 0.1 } as const, rankTrain];
const job: RankJob = { model, train, lanes: 7, gpus: true, join: { silence: 15 } };
const wide = { ...model, precision: "float64" } as const;

const gpus = whyNoGpu() === undefined ? openCuda().length : 0;
const why = whyNoGpu() ?? (gpus < 2 ? "there is one GPU" : undefined);
const world = Math.max(2, gpus);

(why === undefined ? describe : describe.skip)(
  `ranks on GPUs${why === undefined ? "" : ` (skipped: ${why})`}`,
  function () {
    this.timeout(300_000);

    /** By one process, then by a rank on each GPU. Not at once: they would wait for each other's turns. */
    async function bothWays(given: RankJob): Promise<[RankEnd, RankEnd[]]> {
      const [one] = await runRanks(0, given);
      const ranks = await runRanks(world, given);
      healthy([one!, ...ranks]);
      return [one!, ranks];
    }

    for (const [precision, limit] of [
      ["float64", 1e-12],
      ["float32", 1e-5],
    ] as const)
      it(`have the gradient of one GPU with all lanes: ${precision}, padded and reset rows, dropout`, async () => {
        const [one, ranks] = await bothWays({ ...job, gradient: true, model: { ...model, precision } });
        for (const end of ranks) {
          const { difference, norm } = distance(end, one, precision);
          expect(norm).to.be.above(0.1);
          expect(difference / norm).to.be.at.most(limit);
        }
      });

    // Muon's products of several matrices at once round by how many there are, and a rank has fewer than all.
    for (const optimizer of ["adamw", "muon"] as const)
      it(`end 50 steps on the same weights to the bit, on the curve of one GPU, with and without shares of the moments: ${optimizer}`, async () => {
        const given = { ...job, model: wide, train: { ...train, optimizer } };
        const [one, whole] = await bothWays(given);
        const parts = await runRanks(world, { ...given, train: { ...given.train, shardOptimizer: true } });
        const [hash, hashOfParts] = [weightsOf(whole), weightsOf(parts)];
        if (optimizer === "adamw") expect(hashOfParts).to.equal(hash);
        for (const ends of [whole, parts])
          for (const [i, { loss, tokens }] of ends[0]!.steps.entries()) {
            expect(loss, `step ${i + 1}`).to.be.closeTo(one.steps[i]!.loss, 1e-9);
            expect(tokens).to.equal(one.steps[i]!.tokens);
          }
      });

    it("go on as one from what 2 have saved", async () => {
      const folder = await temporary();
      try {
        const given = { ...job, model: wide, checkpoints: join(folder.path, "checkpoints") };
        const first = await runRanks(2, { ...given, train: { ...train, steps: 8, saveEvery: 4 } });
        const [second] = await runRanks(0, { ...given, resume: true, train: { ...train, steps: 16, saveEvery: 4 } });
        healthy([...first, second!]);
        const [one] = await runRanks(0, { ...job, model: wide, train: { ...train, steps: 16 } });
        const steps = [...first[0]!.steps, ...second!.steps];
        expect(steps).to.have.length(16);
        for (const [i, { loss }] of steps.entries())
          expect(loss, `step ${i + 1}`).to.be.closeTo(one!.steps[i]!.loss, 1e-9);
      } finally {
        await folder.remove();
      }
    });

    it("score a text as one GPU does, ablations included", async () => {
      const { train: _, ...asked } = job;
      const given = {
        ...asked,
        train: {},
        evaluations: [{ model: wide }, { model: { ...wide, architecture: "decoder" as const } }],
      };
      const [one, ranks] = await bothWays(given);
      for (const { evaluations } of ranks)
        for (const [i, expected] of one.evaluations!.entries()) {
          const found = evaluations![i]!;
          expect(found.tokens).to.equal(expected.tokens);
          expect(found.nats / expected.nats).to.be.closeTo(1, 1e-12);
          for (const name of ABLATIONS)
            expect(found.ablations[name]!.nats / expected.ablations[name]!.nats, name).to.be.closeTo(1, 1e-12);
        }
    });

    for (const signal of ["SIGKILL", "SIGSTOP"] as const)
      it(`end in time, and name it, when one is gone by ${signal}`, async () => {
        const endless = { ...job, train: { ...train, steps: 1_000_000 }, join: { silence: 4, limit: 20 } };
        const ranks = await startRanks(2, endless);
        try {
          await Promise.all(ranks.map(async (rank) => rank.reached(3)));
          const began = performance.now();
          ranks[1]!.process.kill(signal);
          const { code, error, stderr } = await ranks[0]!.ended;
          expect((performance.now() - began) / 1000).to.be.below(LIMIT);
          expect(code, stderr).to.equal(1);
          expect(error?.code, stderr).to.equal("ERR_MEMFORMER_DISTRIBUTED");
          expect(error?.message).to.match(/^rank 1 \(process \d+ on .+\) has given no sign of life for \d+ s/);
        } finally {
          for (const { process: child } of ranks) child.kill("SIGKILL");
        }
      });

    it("train by `memformer train --gpus 2`, and are what `doctor --distributed` finds", async () => {
      const folder = await temporary();
      try {
        const cli = (...args: string[]): ReturnType<typeof spawnSync> =>
          spawnSync(process.execPath, ["--import", tsx, main, ...args], { cwd: folder.path, encoding: "utf8" });
        const text = join(folder.path, "text.txt");
        await writeFile(text, "The whale swam on; the ship went on.\f\n".repeat(400));
        const trained = cli(
          ...["train", "--gpus", "2", "--data", text, "--out", "run", "--preset", "tiny", "--lanes", "4"],
          ...["--steps", "20", "--no-tensorboard"],
        );
        expect(trained.status, String(trained.stderr)).to.equal(0);
        const log = (await readFile(join(folder.path, "run", "log.jsonl"), "utf8")).trim().split("\n");
        expect(log.filter((line) => line.includes("train/loss"))).to.have.length(20);
        const doctor = cli("doctor", "--distributed");
        expect(doctor.status, `${doctor.stdout}${doctor.stderr}`).to.equal(0);
        expect(doctor.stdout).to.include("NCCL");
      } finally {
        await folder.remove();
      }
    });
  },
);
