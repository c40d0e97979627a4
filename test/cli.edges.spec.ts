import { expect } from "chai";
import { spawn } from "node:child_process";
import { closeSync, existsSync, openSync, writeFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { CheckpointStore } from "../lib/checkpoint/store.ts";
import { Bench, tiny } from "./support/run-cli.ts";

/** As it is published: tsx itself does not start in a folder that is gone. */
const built = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));

describe("a command at its process's edges", function () {
  this.timeout(180_000);
  let bench: Bench;
  before(async () => {
    bench = new Bench();
    const { code, stderr } = await train("run", "--steps", "3").ended;
    expect(code, stderr).to.equal(0);
  });
  after(() => {
    bench.remove();
  });
  const train = (out: string, ...args: string[]): ReturnType<Bench["start"]> =>
    bench.start("train", "--data", bench.text, "--out", out, ...tiny, ...args);

  /** The command line with its standard streams on a disk that is full, where `full` names them. */
  async function onFullDisk(
    full: readonly ("stdout" | "stderr")[],
    ...args: string[]
  ): Promise<{ code: number | null; stderr: string }> {
    const disk = openSync("/dev/full", "w");
    try {
      const child = spawn(process.execPath, [...bench.program, ...args], {
        cwd: bench.folder,
        env: bench.env,
        stdio: ["ignore", full.includes("stdout") ? disk : "pipe", full.includes("stderr") ? disk : "pipe"],
      });
      let stderr = "";
      child.stdout?.resume();
      child.stderr?.on("data", (piece) => {
        stderr += String(piece);
      });
      const code = await new Promise<number | null>((resolve) => {
        child.on("close", resolve);
      });
      return { code, stderr };
    } finally {
      closeSync(disk);
    }
  }

  it("trains on when whoever reads its words goes away", async () => {
    const { child, ended } = train("unread", "--steps", "300");
    child.stderr!.once("data", () => {
      child.stderr!.destroy();
      child.stdout!.destroy();
    });
    expect((await ended).code).to.equal(0);
    expect((await bench.log("unread")).length).to.equal(300);
    expect(existsSync(bench.path("unread", "model", "model.safetensors"))).to.be.true;
  });

  it("trains on when its words have no room on the disk", async () => {
    const { code } = await onFullDisk(
      ["stdout", "stderr"],
      "train",
      "--data",
      bench.text,
      "--out",
      "full",
      ...tiny,
      "--steps",
      "3",
    );
    expect(code).to.equal(0);
    expect(existsSync(bench.path("full", "model", "model.safetensors"))).to.be.true;
  });

  it("fails when what it was asked for has no room, and says so", async () => {
    for (const args of [
      ["evaluate", "run", "--threads", "1"],
      ["generate", "run", "--max-tokens", "3", "--threads", "1"],
      ["inspect", "run"],
    ]) {
      const { code, stderr } = await onFullDisk(["stdout"], ...args);
      expect(stderr, args[0]).to.include("cannot write to the standard output: ENOSPC").and.include("ERR_MEMFORMER_IO");
      expect(code, args[0]).to.equal(1);
    }
  });

  it("stops generating, without a word of failure, when nobody reads any more", async () => {
    const { child, ended } = bench.start("generate", "run", "--max-tokens", "1000000", "--threads", "1");
    child.stdout!.once("data", () => {
      child.stdout!.destroy();
    });
    const { code, stderr } = await ended;
    expect(code, stderr).to.equal(0);
  });

  it("ends with a checkpoint and 129 when its terminal hangs up, however often it does", async () => {
    const { child, ended } = train("hung-up", "--steps", "1000000");
    child.stderr!.on("data", (piece) => {
      if (/\/1000000 · loss|finishing/.test(String(piece))) child.kill("SIGHUP");
    });
    const { code, stderr } = await ended;
    expect(code, stderr).to.equal(129);
    expect(await new CheckpointStore(bench.path("hung-up", "checkpoints")).last(), stderr).to.not.equal(undefined);
  });

  it("ends an evaluation at Ctrl-C at once, and keeps the step before it", async () => {
    // Held-out text that takes minutes, on one lane: 2 MB in segments of 4.
    const long = bench.path("long.txt");
    writeFileSync(long, "The ship went on, and on it went.\f\n".repeat(60_000));
    const { child, ended } = bench.start(
      "train",
      "--data",
      long,
      "--held-out",
      "0.9",
      "--out",
      "evaluating",
      ...tiny,
      "--lanes",
      "1",
      "--segment-length",
      "4",
      "--steps",
      "1000000",
      "--evaluate-every",
      "1",
    );
    let interrupting: Promise<void> | undefined;
    child.stderr!.on("data", (piece) => {
      if (String(piece).includes("memory of")) interrupting ??= interrupt();
    });
    /** Once step 1 is in the log, which it is before its evaluation. */
    async function interrupt(): Promise<void> {
      while (!existsSync(bench.path("evaluating", "log.jsonl"))) await setTimeout(50);
      await setTimeout(500);
      child.kill("SIGINT");
    }
    const { code, stderr } = await ended;
    expect(code, stderr).to.equal(130);
    expect(stderr).to.not.include("held-out bits per byte");
    expect(stderr).to.include("Stopped after step 1 of 1000000");
    const last = await new CheckpointStore(bench.path("evaluating", "checkpoints")).last();
    expect(last).to.match(/step-000001$/);
  });

  it("says that the working folder is gone", async () => {
    for (const args of [["evaluate", bench.path("run")], ["generate", bench.path("run")], ["doctor"]]) {
      const child = spawn(
        "sh",
        ["-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh", process.execPath, built, ...args],
        {
          cwd: bench.folder,
          env: bench.env,
        },
      );
      let output = "";
      child.stderr.on("data", (piece) => {
        output += String(piece);
      });
      child.stdout.resume();
      const code = await new Promise((resolve) => {
        child.on("close", resolve);
      });
      expect(output).to.include("the working folder is gone").and.include("ERR_MEMFORMER_IO");
      expect(code).to.equal(1);
    }
  });
});
