import { expect } from "chai";
import { plainOptions } from "../lib/index.ts";
import { Hosts } from "./support/hosts.ts";
import { ranksEnvironment, startRank, type Rank, type RankJob } from "./support/ranks.ts";

const job: RankJob = {
  model: { preset: "tiny", ...plainOptions, vocabulary: 257, bos: 256, width: 16, heads: 2, segmentLength: 6 },
  train: { steps: 8, horizon: 2, schedule: "constant", warmup: 0 },
  lanes: 4,
  join: { silence: 4, startLimit: 60, limit: 60 },
};
const LIMIT = 40; // seconds
const PORT = 29500; // each host's ports are its own

describe("two hosts, namespaces of this machine", function () {
  this.timeout(120_000);
  const running: Rank[] = [];
  let hosts: Hosts | undefined;
  before(function () {
    hosts = Hosts.make();
    if (hosts !== undefined) return;
    for (const test of this.test!.parent!.tests) test.title += " (needs iproute2, and the right to make namespaces)";
    this.skip();
  });
  afterEach(() => {
    for (const { process: child } of running.splice(0)) child.kill("SIGKILL");
  });
  after(() => {
    hosts?.[Symbol.dispose]();
  });

  function start(given: RankJob): Rank[] {
    const ranks = [0, 1].map((rank) =>
      startRank(given, { ...ranksEnvironment(rank, 2, PORT, hosts!.addresses[0]), LOCAL_RANK: "0" }, hosts!.on(rank)),
    );
    running.push(...ranks);
    return ranks;
  }

  it("train one model", async () => {
    const ends = await Promise.all(start(job).map(async ({ ended }) => ended));
    for (const { code, error, stderr, steps } of ends) {
      expect(code, JSON.stringify(error) + stderr).to.equal(0);
      expect(steps).to.have.length(8);
    }
    expect(ends[0]!.weights).to.equal(ends[1]!.weights);
  });

  it("both end in time when the link between them is cut, each with its sentence", async () => {
    const ranks = start({ ...job, train: { ...job.train, steps: 1_000_000 } });
    await Promise.all(ranks.map(async (one) => one.reached(3)));
    const began = performance.now();
    hosts!.cut();
    const ends = await Promise.all(ranks.map(async ({ ended }) => ended));
    expect((performance.now() - began) / 1000).to.be.below(LIMIT);
    for (const [rank, { code, error, stderr }] of ends.entries()) {
      expect(code, `rank ${rank}: ${stderr}`).to.equal(1);
      expect(error?.code).to.equal("ERR_MEMFORMER_DISTRIBUTED");
      expect(error?.message).to.match(
        new RegExp(
          `^rank ${1 - rank} \\(process \\d+ on .+\\) has given no sign of life for \\d+ s; rank ${rank} of 2 was at step`,
        ),
      );
      expect(error?.details).to.deep.include({ rank, peer: 1 - rank });
    }
  });
});
