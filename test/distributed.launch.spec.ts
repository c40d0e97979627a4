import { expect } from "chai";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import type { Evaluation } from "../lib/index.ts";
import { freePort } from "../lib/distributed/launch.ts";
import { ranksEnvironment } from "./support/ranks.ts";
import { Bench, tiny } from "./support/run-cli.ts";

/** The processes that a process has started, by their command lines' environment: ranks name their number there. */
async function rankProcess(parent: number, rank: number): Promise<number> {
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const [status, variables] = await Promise.all(
      ["status", "environ"].map(async (file) => readFile(`/proc/${name}/${file}`, "utf8").catch(() => "")),
    );
    if (status!.includes(`PPid:\t${parent}\n`) && variables!.split("\0").includes(`RANK=${rank}`)) return Number(name);
  }
  throw new Error(`process ${parent} has no rank ${rank}`);
}

describe("memformer train in several processes", function () {
  this.timeout(180_000);
  let bench: Bench;
  before(() => {
    bench = new Bench();
  });
  const running: ChildProcess[] = [];
  afterEach(() => {
    for (const child of running.splice(0)) child.kill("SIGKILL"); // its ranks end with it
  });
  after(() => {
    bench.remove();
  });
  const args = (out: string, ...more: string[]): string[] => [
    "train",
    "--data",
    bench.text,
    "--out",
    out,
    ...tiny,
    "--memory-gradient-limit",
    "0",
    ...more,
  ];

  it("--processes 3 logs what one process does; resumed as 2, and by torchrun's variables, it goes on; two score it as one does", async () => {
    const more = ["--steps", "12", "--evaluate-every", "6", "--save-every", "6"];
    const one = await bench.run(...args("one", ...more, "--steps", "24")),
      three = await bench.run(...args("three", ...more, "--processes", "3", "--shard-optimizer"));
    expect(one.code, one.stderr).to.equal(0);
    expect({ code: three.code, stdout: three.stdout }, three.stderr).to.deep.equal({
      code: 0,
      stdout: "three/model\n",
    });
    expect(three.stderr).to.include("3 ranks").and.not.include("[rank");
    const two = await bench.run("train", "--resume", "--out", "three", "--steps", "18", "--processes", "2");
    expect(two.code, two.stderr).to.equal(0);
    expect(two.stderr).to.include("resumed after step 12; 2 ranks");

    const port = await freePort();
    const codes = await Promise.all(
      [0, 1].map(async (rank) => {
        const child = spawn(
          process.execPath,
          [...bench.program, "train", "--resume", "--out", "three", "--steps", "24"],
          { cwd: bench.folder, env: { ...bench.env, ...ranksEnvironment(rank, 2, port) }, stdio: "ignore" },
        );
        return ((await once(child, "exit")) as [number])[0];
      }),
    );
    expect(codes).to.deep.equal([0, 0]);
    const [expected, found] = [await bench.log("one"), await bench.log("three")];
    expect(found.map(({ step }) => step)).to.deep.equal(expected.map(({ step }) => step));
    for (const [i, line] of expected.entries()) {
      expect(found[i]!["train/loss"], `step ${i + 1}`).to.be.closeTo(line["train/loss"] as number, 1e-3);
      if ("valid/bits-per-byte" in line)
        expect(found[i]!["valid/bits-per-byte"]).to.be.closeTo(line["valid/bits-per-byte"] as number, 1e-2);
    }

    const [alone, shared] = await Promise.all(
      [[], ["--processes", "2"]].map(async (ranks) => {
        const { code, stdout, stderr } = await bench.run(
          "evaluate",
          "three",
          "--json",
          "--split",
          "train",
          "--segments",
          "12",
          ...ranks,
        );
        expect(code, stderr).to.equal(0);
        return JSON.parse(stdout) as Evaluation;
      }),
    );
    expect(shared).to.have.all.keys(Object.keys(alone!));
    expect(shared!.tokens).to.equal(alone!.tokens);
    expect(shared!.nats / alone!.nats).to.be.closeTo(1, 1e-6);
    expect(shared!.ablations.shuffled!.nats / alone!.ablations.shuffled!.nats).to.be.closeTo(1, 1e-6);
  });

  it("ends all when one is killed, says which, and ends with a code; the run goes on from its checkpoint", async () => {
    const { child, ended } = bench.start(
      ...args("killed", "--steps", "100000", "--save-every", "5", "--processes", "2"),
    );
    running.push(child);
    while (!existsSync(bench.path("killed/checkpoints/last.json"))) await sleep(100);
    const ranks = [await rankProcess(child.pid!, 0), await rankProcess(child.pid!, 1)];
    process.kill(ranks[1]!, "SIGKILL");
    const { code, stderr } = await ended;
    expect(stderr).to.include("memformer: rank 1 ended first, by SIGKILL; all 2 have been ended");
    expect(stderr).to.match(/rank 1 \(process \d+ on .+\) has given no sign of life for \d+ s/);
    expect(code).to.equal(137);
    for (const pid of ranks) expect(existsSync(`/proc/${pid}`), `process ${pid}`).to.equal(false);
  });

  it("finishes the step of all ranks at SIGTERM, with a checkpoint", async () => {
    const { child, ended } = bench.start(...args("stopped", "--steps", "100000", "--processes", "2"));
    running.push(child);
    const lines = async (): Promise<number> =>
      (await readFile(bench.path("stopped/log.jsonl"), "utf8").catch(() => "")).split("\n").length;
    while ((await lines()) < 4) await sleep(100);
    child.kill("SIGTERM");
    const { code, stderr } = await ended;
    expect(code, stderr).to.equal(143);
    expect(stderr).to.match(/Stopped after step \d+ of 100000\. Continue with: memformer train --resume/);
    expect(existsSync(bench.path("stopped/checkpoints/last.json"))).to.equal(true);
  });

  it("refuses numbers that are none, both flags, and fewer lanes than ranks", async () => {
    for (const [given, message] of [
      [["--processes", "0"], "expected a whole number of at least 1"],
      [["--processes", "2", "--gpus", "2"], "cannot be used with"],
    ] as const) {
      const { code, stderr } = await bench.run(...args("refused", ...given));
      expect(code).to.equal(2);
      expect(stderr).to.include(message);
    }
    const { code, stderr } = await bench.run(...args("refused", "--lanes", "1", "--processes", "2"));
    expect(code).to.not.equal(0);
    expect(stderr).to.include("lanes must be at least 1 a rank, got 1 for 2 ranks");
  });
});
