import { expect } from "chai";
import { tokensInMemory, openTokenizer, TokenStream, type Segment, type SegmentStream } from "../lib/index.ts";
import { firstDifference } from "../lib/distributed/difference.ts";
import { launchedWorld, membershipOf } from "../lib/distributed/membership.ts";
import { lanesOf, streamOfLanes } from "../lib/distributed/share.ts";
import { raggedStream } from "./support/ranks.ts";
import { mixedSeed } from "../lib/model/row-seeds.ts";

describe("a rank's place", () => {
  const torchrun = {
    RANK: "3",
    WORLD_SIZE: "4",
    LOCAL_RANK: "1",
    MASTER_ADDR: "node0",
    MASTER_PORT: "29401",
    TORCHELASTIC_USE_AGENT_STORE: "True",
    TORCHELASTIC_RUN_ID: "job",
    TORCHELASTIC_RESTART_COUNT: "2",
  };

  it("follows from torchrun's variables, whose agent has the store and starts ranks again over it", () => {
    expect(membershipOf({}, torchrun)).to.deep.include({
      rank: 3,
      world: 4,
      localRank: 1,
      address: "node0",
      port: 29401,
      hostsStore: false,
      launcherStore: true,
      prefix: "memformer/job/2",
    });
    expect(launchedWorld(torchrun)).to.equal(4);
  });

  it("follows from Slurm's; a batch script alone is one process", () => {
    const slurm = { SLURM_PROCID: "0", SLURM_STEP_NUM_TASKS: "2", SLURM_LOCALID: "0", SLURM_NTASKS: "2" };
    expect(membershipOf({}, slurm)).to.deep.include({ rank: 0, world: 2, localRank: 0, hostsStore: true, port: 29500 });
    expect(launchedWorld(slurm)).to.equal(2);
    expect(launchedWorld({ SLURM_PROCID: "0", SLURM_NTASKS: "2" })).to.equal(undefined);
    expect(() => membershipOf({}, { ...slurm, SLURM_NNODES: "2" })).to.throw("MASTER_ADDR is not set");
  });

  it("is what is given, before any variable", () => {
    const given = { rank: 1, world: 2, address: "10.0.0.1", port: 5000, silence: 5, limit: 7, startLimit: 9 };
    expect(membershipOf(given, torchrun)).to.deep.include(given);
    expect(membershipOf({ rank: 0, world: 1 }, {})).to.deep.include({ silence: 20, limit: 100, startLimit: 300 });
  });

  const refusals: readonly (readonly [string, object, Record<string, string>, string])[] = [
    ["nothing", {}, {}, "there is no world"],
    ["no rank", { world: 2 }, {}, "there is no rank"],
    ["a rank too high", { world: 2, rank: 2 }, {}, "rank must be below world 2, got 2"],
    ["a variable that is no number", { world: 2 }, { RANK: "one" }, 'RANK must be a whole number, got "one"'],
    ["an unknown option", { ranks: 2 }, {}, "ranks"],
    ["a port out of range", { world: 1, rank: 0, port: 70_000 }, {}, "port"],
  ];
  for (const [what, options, variables, message] of refusals)
    it(`is refused for ${what}`, () => {
      expect(() => membershipOf(options, variables))
        .to.throw(message)
        .with.property("code", "ERR_MEMFORMER_CONFIG");
    });
});

describe("lanes of a rank", () => {
  it("are all lanes, each once, in order, the counts at most 1 apart", () => {
    for (const [total, world] of [
      [7, 3],
      [4, 4],
      [16, 5],
      [1, 1],
    ] as const) {
      const ranks = Array.from({ length: world }, (_, rank) => lanesOf(total, rank, world));
      const all = ranks.flatMap(({ first, count }) => Array.from({ length: count }, (_, i) => first + i));
      expect(all).to.deep.equal(Array.from({ length: total }, (_, lane) => lane));
      const counts = ranks.map(({ count }) => count);
      expect(Math.max(...counts) - Math.min(...counts)).to.be.at.most(1);
    }
    expect(() => lanesOf(2, 0, 3)).to.throw("lanes must be at least 1 a rank, got 2 for 3 ranks");
  });

  it("are the same rows of the same segments, whatever the stream offers, and positions are the whole stream's", async () => {
    const plain = (stream: TokenStream): SegmentStream => ({
      lanes: stream.lanes,
      segmentLength: stream.segmentLength,
      vocabulary: stream.vocabulary,
      bos: stream.bos,
      next: async () => stream.next(),
      position: () => stream.position(),
      seek: (position) => {
        stream.seek(position as never);
      },
    });
    const whole = raggedStream(5),
      streams = [0, 1, 2].flatMap((rank) => [
        streamOfLanes(raggedStream(5), lanesOf(5, rank, 3)),
        streamOfLanes(plain(raggedStream(5)), lanesOf(5, rank, 3)),
      ]);
    for (let i = 0; i < 20; i++) {
      const { target, source, reset } = (await whole.next())!;
      const parts = (await Promise.all(streams.map(async (stream) => stream.next()))) as Segment[];
      const scored = target.filter((token) => token >= 0).length;
      for (const { scoredOfAll } of parts) expect(scoredOfAll).to.equal(scored);
      for (const kind of [0, 1]) {
        const ofKind = parts.filter((_, n) => n % 2 === kind);
        const joined = (name: "source" | "target" | "reset"): number[] => ofKind.flatMap((part) => [...part[name]]);
        expect([joined("source"), joined("target"), joined("reset")]).to.deep.equal([
          [...source],
          [...target],
          [...reset],
        ]);
      }
      for (const stream of streams) expect(stream.position()).to.deep.equal(whole.position());
    }
  });

  it("count the targets of all lanes where documents' ends are predicted too", async () => {
    const source = tokensInMemory([Int32Array.of(1, 2, 3), Int32Array.of(4)], await openTokenizer("bytes"));
    const options = { lanes: 2, segmentLength: 4, shuffle: false, ends: true } as const;
    const part = await new TokenStream(source, options).nextLanes(1, 1);
    expect(part).to.deep.include({ batch: 1, scoredOfAll: 6 });
    expect([...part!.target]).to.deep.equal([4, 256, -1, -1]);
  });
});

describe("two configurations", () => {
  it("differ first in the path that is named", () => {
    expect(firstDifference({ a: { b: 1, c: [1, 2] } }, { a: { b: 1, c: [1, 3] } })).to.deep.equal({
      path: "a.c.1",
      one: 2,
      other: 3,
    });
    expect(firstDifference({ a: 1 }, { a: 1, b: null })).to.deep.include({ path: "b", one: undefined });
    expect(firstDifference("x", "y")).to.deep.include({ path: "" });
    expect(firstDifference({ a: [null] }, { a: [null] })).to.equal(undefined);
  });
});

describe("a row's seed", () => {
  it("is its own", () => {
    const seeds = [0, 1, 2].flatMap((seed) => [0, 1, 2].map((row) => mixedSeed(seed, row)));
    expect(new Set(seeds).size).to.equal(9);
  });
});
