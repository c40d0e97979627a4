import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { freePort } from "../lib/distributed/launch.ts";
import { distributed, plainOptions, type DeviceName } from "../lib/index.ts";
import { failure } from "./support/failure.ts";
import {
  ranksEnvironment,
  runRanks,
  startRank,
  startRanks,
  type Rank,
  type RankEnd,
  type RankJob,
} from "./support/ranks.ts";
import { temporary } from "./support/runs.ts";

const job: RankJob = {
  model: { preset: "tiny", ...plainOptions, vocabulary: 257, bos: 256, width: 16, heads: 2, segmentLength: 6 },
  train: { steps: 1_000_000, horizon: 2, schedule: "constant", warmup: 0 },
  lanes: 4,
  join: { silence: 4, startLimit: 60, limit: 60 },
};
const LIMIT = 40; // seconds

/** Every rank but `except` ended in a sentence that matches, blaming `peer`. */
function expectTold(ends: readonly RankEnd[], except: number, sentence: RegExp, peer: number): void {
  for (const [rank, end] of ends.entries()) {
    if (rank === except) continue;
    const { code, error, stderr } = end;
    expect(code, `rank ${rank}: ${stderr}`).to.equal(1);
    expect(error?.message, `rank ${rank}`).to.match(sentence);
    expect(error?.code).to.equal("ERR_MEMFORMER_DISTRIBUTED");
    expect(error?.details).to.deep.include({ rank, peer });
    expect(error?.details?.collective).to.be.a("string");
  }
}

describe("a rank that fails", function () {
  this.timeout(180_000);
  const running: Rank[] = [];
  afterEach(() => {
    for (const { process: child } of running.splice(0)) child.kill("SIGKILL");
  });

  async function start(...args: Parameters<typeof startRanks>): Promise<Rank[]> {
    const ranks = await startRanks(...args);
    running.push(...ranks);
    return ranks;
  }

  for (const [signal, rank, sentence, shardOptimizer = false] of [
    [
      "SIGKILL",
      1,
      /^rank 1 \(process \d+ on .+\) has given no sign of life for \d+ s; rank \d of 3 was at step \d+, in /,
    ],
    ["SIGSTOP", 1, /^rank 1 \(process \d+ on .+\) has given no sign of life for \d+ s/, true],
    ["SIGKILL", 0, /^rank 0 \(process \d+ on .+\) (has gone|has given no sign of life for \d+ s)/, true],
    ["SIGSTOP", 0, /^rank 0 \(process \d+ on .+\) has given no sign of life for \d+ s/],
  ] as const)
    it(`by ${signal}, is named by the others, rank ${rank} of 3${shardOptimizer ? ", which share out moments" : ""}`, async () => {
      const ranks = await start(3, { ...job, train: { ...job.train, shardOptimizer } });
      await Promise.all(ranks.map(async (one) => one.reached(3)));
      const began = performance.now();
      ranks[rank]!.process.kill(signal);
      const others = await Promise.all(ranks.map(async ({ ended }, i) => (i === rank ? undefined : ended)));
      expect((performance.now() - began) / 1000).to.be.below(LIMIT);
      expectTold(others as RankEnd[], rank, sentence, rank);
      const step = (others.find((end) => end !== undefined) as RankEnd).error!.details!.step;
      expect(step).to.be.at.least(3);
    });

  it("by a device that is not there, is told what is, before it meets anybody", async () => {
    const place = { rank: 0, world: 2, port: 1 };
    const device = "tpu" as DeviceName;
    const [none, noName] = await Promise.all([
      failure(async () => distributed.join({ ...place, device: "cuda:99" })),
      failure(async () => distributed.join({ ...place, device })),
    ]);
    expect(none.code).to.equal("ERR_MEMFORMER_NO_CUDA");
    expect(noName.code).to.equal("ERR_MEMFORMER_CONFIG");
    expect(noName.message).to.equal('device must be "auto", "cpu", "cuda" or "cuda:N", got "tpu"');
  });

  it("by another option, is told with the option, on all ranks", async () => {
    const ends = await runRanks(2, job, (rank) => ({ train: { ...job.train, learningRate: rank === 1 ? 0.5 : 0.25 } }));
    const sentence = /^rank 1 differs from rank 0 in the configuration: train\.learningRate \(0\.5, rank 0 has 0\.25\)/;
    expectTold(ends, -1, sentence, 1);
  });

  it("by other weights, is told at the start, and when they drift apart later", async () => {
    const given = { ...job, train: { ...job.train, steps: 200 } };
    const [atStart, later] = await Promise.all([
      runRanks(2, given, (rank) => ({ model: { ...job.model, seed: rank } })),
      runRanks(2, given, () => ({ spoilAt: { rank: 1, step: 3 } })),
    ]);
    for (const ends of [atStart, later]) expectTold(ends, -1, /^rank 1 differs from rank 0 in the weights' hash/, 1);
    expect(atStart[0]!.steps).to.have.length(0);
    expect(later[0]!.steps).to.have.length(199);
  });

  it("by its own error, is told with that error by the others: rank 0 cannot write a checkpoint", async () => {
    const folder = await temporary();
    try {
      const file = join(folder.path, "file");
      await writeFile(file, "");
      const given = { ...job, checkpoints: join(file, "checkpoints"), train: { ...job.train, saveEvery: 3 } };
      const ends = await runRanks(2, given);
      expect(ends[0]!.error?.code).to.equal("ERR_MEMFORMER_IO");
      expectTold(ends, 0, /^the checkpoint has failed on rank 0: .*ENOTDIR/, 0);
    } finally {
      await folder.remove();
    }
  });

  it("by a full disk, is told with that by the others", async function () {
    const folder = await temporary(),
      disk = join(folder.path, "disk");
    await mkdir(disk);
    if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).status !== 0) {
      this.test!.title += " (needs the right to mount)";
      this.skip();
    }
    try {
      const given = { ...job, checkpoints: join(disk, "checkpoints"), train: { ...job.train, saveEvery: 3 } };
      const ends = await runRanks(2, given);
      expect(ends[0]!.error?.message).to.include("ENOSPC");
      expectTold(ends, 0, /^the checkpoint has failed on rank 0: .*ENOSPC/, 0);
    } finally {
      spawnSync("umount", [disk]);
      await folder.remove();
    }
  });

  it("to meet the others, says what is in the way: a port in use, nobody there, a rank missing, one twice, another size", async () => {
    const server = createServer();
    server.listen(0);
    await once(server, "listening");
    const used = (server.address() as { port: number }).port;
    const [free, missing, twice, sizes] = [await freePort(), await freePort(), await freePort(), await freePort()];
    const impatient = { ...job, join: { ...job.join, startLimit: 4 } };
    const rank = async (number: number, world: number, port: number): Promise<RankEnd> => {
      const one = startRank(impatient, ranksEnvironment(number, world, port));
      running.push(one);
      return one.ended;
    };
    const ends = await Promise.all([
      rank(0, 2, used),
      rank(1, 2, free),
      rank(0, 2, missing),
      ...[0, 1, 1].map(async (number) => rank(number, 3, twice)),
      ...[0, 1].map(async (number) => rank(number, 2 + number, sizes)),
    ]);
    server.close();
    const messages = ends.map(({ error }) => error?.message ?? "");
    expect(ends.map(({ code }) => code)).to.deep.equal(ends.map(() => 1));
    expect(messages[0]).to.equal(
      `port ${used} of this machine is in use, and the ranks' store needs it: choose another MASTER_PORT`,
    );
    expect(messages[1]).to.match(/^rank 1 of 2: nothing answers at 127\.0\.0\.1:\d+ within 4 s, .*is rank 0 running/);
    expect(messages[2]).to.equal("rank 1 of 2 has not joined within 4 s");
    expect(messages.slice(3, 6)).to.include("two processes call themselves rank 1 of 3: RANK must differ");
    expect(messages.slice(6).join()).to.match(
      /rank \d was told of \d ranks, another of \d: WORLD_SIZE must be the same/,
    );
    for (const { error } of ends) expect(error?.code).to.equal("ERR_MEMFORMER_DISTRIBUTED");
  });
});
