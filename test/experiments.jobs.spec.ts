/** Runs side by side: who makes them, what becomes of failures, and rows of `bench -- worth` that are there already. */
import { expect } from "chai";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { experimentOf } from "../lib/experiments/index.ts";
import { makeAll, type JobOptions } from "../lib/experiments/jobs.ts";
import { runExperiment } from "../lib/experiments/run.ts";
import { keyOf, plan } from "../lib/experiments/worth/plan.ts";
import { rowsOf } from "../lib/experiments/worth/rows.ts";
import { pairsOf } from "../lib/experiments/worth/summary.ts";
import { failure } from "./support/failure.ts";

describe("experiments: runs side by side", function () {
  this.timeout(60_000);
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "memformer-jobs-"));
  });
  after(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  const seen = (): { rows: string[]; failures: string[]; notes: string[]; options: JobOptions<string, string> } => {
    const rows: string[] = [],
      failures: string[] = [],
      notes: string[] = [];
    const options: JobOptions<string, string> = {
      worker: new URL("./support/jobs-worker.ts", import.meta.url),
      jobs: 2,
      devices: ["cuda:0", "cuda:1"],
      threads: 1,
      deadline: Infinity,
      onRow: (row) => void rows.push(row),
      onFailure: (run, text, code) => failures.push(`${run}: ${text} ${code ?? ""}`),
      onNote: (note, { device }) => notes.push(`${device}: ${note}`),
    };
    return { rows, failures, notes, options };
  };

  it("are made by a process for each device, each process one after the other", async () => {
    const { rows, notes, options } = seen();
    expect(await makeAll(["a", "b", "c", "d", "e", "f"], options)).to.deep.equal([]);
    expect(rows.map((row) => row[0]).sort()).to.deep.equal(["a", "b", "c", "d", "e", "f"]);
    const places = new Set(rows.map((row) => row.slice(2)));
    expect(places.size, "a process, a device").to.equal(2);
    expect(notes).to.have.length(6);
  });

  it("go on after one that fails and one whose process ends", async () => {
    const { rows, failures, options } = seen();
    expect(await makeAll(["refuses", "dies", "a", "b"], options)).to.deep.equal([]);
    expect(rows).to.have.length(2);
    expect(failures.sort()).to.deep.equal([
      "dies: its process ended with 3 ",
      "refuses: no such text ERR_MEMFORMER_DATA",
    ]);
  });

  it("stop when they are told to, wherever they are, and are left", async () => {
    const { options, failures } = seen(),
      stop = new AbortController();
    const left = await makeAll(["reads", "waits", "a"], {
      ...options,
      signal: stop.signal,
      onNote: () => {
        stop.abort();
      },
    });
    expect(left.sort()).to.deep.equal(["a", "reads", "waits"]);
    expect(failures).to.deep.equal([]);
  });

  it("are killed at the deadline where that is asked for", async () => {
    const { options } = seen();
    const left = await makeAll(["waits", "a"], { ...options, jobs: 1, deadline: performance.now() + 1500, kill: true });
    expect(left.sort()).to.deep.equal(["a", "waits"]);
  });

  it("make the rows of an experiment, as one after the other", async () => {
    const worth = experimentOf("worth"),
      options = { budget: "smoke", seeds: [0], device: "cpu" } as const,
      out = join(folder, "beside");
    const { left, rows } = await runExperiment(worth, { ...options, out, devices: ["cpu", "cpu"] });
    expect(left).to.equal(0);
    expect(rows.map(({ settings }) => settings["side"])).to.deep.equal(["memory", "twin"]);
    const notes: string[] = [];
    await runExperiment(worth, { ...options, out, note: (text) => notes.push(text) });
    expect(notes).to.deep.equal(["2 of 2 runs are there already"]);
  });

  it("are refused on devices of two kinds, and on none that is", async () => {
    const options = { budget: "smoke", seeds: [0], device: "cpu", out: join(folder, "none") } as const;
    const { code, message } = await failure(
      runExperiment(experimentOf("worth"), { ...options, devices: ["cpu", "gpu" as "cpu"] }),
    );
    expect(code).to.equal("ERR_MEMFORMER_CONFIG");
    expect(message).to.include('got "gpu"');
  });
});

describe("experiments: rows of worth", () => {
  it("of earlier calls of the bench are known by their runs", async () => {
    const text = await readFile(new URL("../bench/results/worth-gpu.jsonl", import.meta.url), "utf8"),
      rows = rowsOf(text);
    expect(rows.size).to.equal(text.trim().split("\n").length);
    const [row] = rows.values(),
      { shape, rate, seed, tokens, lanes, depth, data, precision } = row!.run;
    const experiment = {
      shape,
      variants: ["default", "zero+slow", "plain", "recipe", "slow"],
      rates: [rate],
      seeds: [seed],
      sides: ["memory", "twin"] as const,
      tokens,
      lanes,
      depth,
      cut: 0,
      data,
      precision,
    };
    expect(plan(experiment).filter((run) => rows.has(keyOf(run))).length, "of this plan").to.be.above(1);
    expect(pairsOf(experiment, rows).length).to.be.above(0);
  });
});
