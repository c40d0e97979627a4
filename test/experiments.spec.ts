/** Every experiment in its smoke form, and what makes rows and reports trustworthy. */
import { expect } from "chai";
import { existsSync } from "node:fs";
import { appendFile, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Memformer, RecallStream } from "../lib/index.ts";
import type { Experiment, Row, RunContext } from "../lib/experiments/experiment.ts";
import { experimentOf, experiments } from "../lib/experiments/index.ts";
import { recallModel } from "../lib/experiments/recall-task.ts";
import { svg, type Chart } from "../lib/experiments/report/chart.ts";
import { cell, markdown } from "../lib/experiments/report/table.ts";
import { keyOf, RowFile } from "../lib/experiments/rows.ts";
import { runExperiment, seedsOf } from "../lib/experiments/run.ts";
import { trained } from "../lib/experiments/training.ts";
import { failure } from "./support/failure.ts";
import { Bench } from "./support/run-cli.ts";

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "memformer-experiments-"));
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
});

const smoke = { budget: "smoke", seeds: [0], device: "cpu" } as const;

describe("experiments: the smoke form of each", function () {
  this.timeout(120_000);
  for (const experiment of experiments) {
    it(`${experiment.name} runs in under 30 s and fills its report`, async () => {
      const out = join(folder, experiment.name),
        began = performance.now();
      const outcome = await runExperiment(experiment, { ...smoke, out });
      expect((performance.now() - began) / 1000).to.be.below(30);
      expect(outcome.left).to.equal(0);
      const html = await readFile(outcome.path, "utf8");
      expect(html)
        .to.include(experiment.title)
        .and.not.match(/<td>(not run|failed|NaN|undefined|null)/);
      expect(html.match(/<(script|link|img (?!src="data:))/g)).to.equal(null, "needs no other file");
      const figures = existsSync(join(out, "figures")) ? await readdir(join(out, "figures")) : [];
      const charts = outcome.sections.flatMap(({ charts = [] }) => charts.map(({ name }) => `${name}.svg`)),
        pictures = outcome.sections.flatMap(({ pictures = [] }) => pictures.map(({ name }) => `${name}.png`));
      expect(figures).to.have.members([...charts, ...charts.map((name) => name.replace("svg", "png")), ...pictures]);
      expect(html.match(/<svg/g)?.length ?? 0).to.equal(charts.length);
      // What is there is not run again.
      const notes: string[] = [];
      const again = await runExperiment(experiment, { ...smoke, out, note: (text) => notes.push(text) });
      expect(notes).to.deep.equal([`${outcome.rows.length} of ${outcome.rows.length} runs are there already`]);
      expect(again.rows).to.deep.equal(JSON.parse(JSON.stringify(outcome.rows)));
    });
  }
});

/** Three runs that count how often they are made. */
function counting(made: number[]): Experiment {
  return {
    name: "counting",
    title: "Counting",
    claim: "one, two, three",
    plan: async () => [{ n: 1 }, { n: 2 }, { n: 3 }, { n: 2 }],
    async run(settings) {
      made.push(Number(settings["n"]));
      return { square: Number(settings["n"]) ** 2 };
    },
    report: (runs, rows) => [
      {
        title: "Squares",
        tables: [
          {
            title: "Squares",
            columns: ["n", "square"],
            rows: runs.map((run) => [
              JSON.stringify(run["n"]),
              cell([rows(run)], ({ square }) => Number(square), String),
            ]),
          },
        ],
      },
    ],
  };
}

describe("experiments: rows", () => {
  const row = (n: number): Row => ({ experiment: "e", settings: { n }, result: { n }, seconds: 1, machine: {} });

  it("are known by their settings, in whatever order and depth", () => {
    expect(keyOf("e", { a: 1, b: { c: 2, d: [3] } })).to.equal(keyOf("e", { b: { d: [3], c: 2 }, a: 1 }));
    expect(keyOf("e", { a: 1 })).to.not.equal(keyOf("f", { a: 1 }));
  });

  it("survive a line that a kill tore, which is cut off", async () => {
    const path = join(folder, "torn.jsonl");
    const file = await RowFile.open(path);
    await file.append(row(1));
    await appendFile(path, JSON.stringify(row(2)).slice(0, -3));
    const again = await RowFile.open(path);
    expect(again.find("e", { n: 1 })).to.deep.equal(row(1));
    expect(again.find("e", { n: 2 })).to.equal(undefined);
    await again.append(row(3));
    expect((await readFile(path, "utf8")).trim().split("\n")).to.have.length(2);
    expect((await RowFile.open(path)).find("e", { n: 3 })).to.deep.equal(row(3));
  });

  it("are refused where a line is none, by its number", async () => {
    const path = join(folder, "foreign.jsonl");
    await writeFile(path, `${JSON.stringify(row(1))}\n{"loss": 3}\n`);
    const { code, message } = await failure(RowFile.open(path));
    expect(code).to.equal("ERR_MEMFORMER_DATA");
    expect(message).to.match(/line 2 is not a row/);
  });

  it("are made once each, and the report says of the others that they were not run", async () => {
    const out = join(folder, "counting"),
      made: number[] = [];
    const none = await runExperiment(counting(made), { ...smoke, out, signal: AbortSignal.abort() });
    expect([made, none.left]).to.deep.equal([[], 3]);
    expect(await readFile(none.path, "utf8")).to.include("<td>3</td><td>not run</td>");
    const file = await RowFile.open(join(out, "rows.jsonl"));
    await file.append({ ...row(0), experiment: "counting", settings: { n: 2 }, result: { square: 4 } });
    const whole = await runExperiment(counting(made), { ...smoke, out });
    expect([made, whole.left]).to.deep.equal([[1, 3], 0]);
    expect(await readFile(whole.path, "utf8")).to.include("<td>2</td><td>4</td>");
  });

  it("are left, not failed, where the signal ends what reads or measures", async () => {
    const stop = new AbortController(),
      of = counting([]);
    const reading: Experiment = {
      ...of,
      run: async (settings, context) => {
        if (settings["n"] === 2) stop.abort();
        context.signal!.throwIfAborted();
        return of.run(settings, context);
      },
    };
    const { left, rows } = await runExperiment(reading, {
      ...smoke,
      out: join(folder, "stopped"),
      signal: stop.signal,
    });
    expect([left, rows.length]).to.deep.equal([2, 1]);
  });

  it("keep what was done when a run fails", async () => {
    const out = join(folder, "failing"),
      made: number[] = [],
      of = counting(made);
    const failing: Experiment = {
      ...of,
      run: async (settings, context) => {
        if (settings["n"] === 3) throw new Error("out of luck");
        return of.run(settings, context);
      },
    };
    expect((await failure(runExperiment(failing, { ...smoke, out }))).message).to.equal("out of luck");
    expect((await runExperiment(of, { ...smoke, out })).left).to.equal(0);
    expect(made).to.deep.equal([1, 2, 3]);
  });

  it("begin nothing that the minutes have no time for", async () => {
    const made: number[] = [];
    const outcome = await runExperiment(counting(made), { ...smoke, out: join(folder, "late"), minutes: 1e-9 });
    expect([made, outcome.left]).to.deep.equal([[], 3]);
  });
});

describe("experiments: the runs that are asked for", () => {
  it("are made alone, and the report is of all", async () => {
    const made: number[] = [],
      notes: string[] = [];
    const options = { ...smoke, out: join(folder, "only"), only: '"n":2', note: (line: string) => notes.push(line) };
    const outcome = await runExperiment(counting(made), options);
    expect([made, outcome.left, outcome.rows.length]).to.deep.equal([[2], 2, 1]);
    expect(notes[0]).to.equal("1 of 3 runs are asked for");
    await runExperiment(counting(made), options);
    expect(made, "made once").to.deep.equal([2]);
  });

  it("are some: else what settings there are is said", async () => {
    const error = await failure(runExperiment(counting([]), { ...smoke, out: join(folder, "none"), only: "LSTM" }));
    expect(error).to.have.property("code", "ERR_MEMFORMER_CONFIG");
    expect(error.message).to.match(
      /^no run of \S+ has settings that contain "LSTM"; those of the first are \{"n":1\}$/,
    );
  });
});

describe("experiments: a run that is stopped", function () {
  this.timeout(120_000);

  it("goes on from its checkpoint, to the bit", async () => {
    const task = { lanes: 4, segmentLength: 4, keys: 4, minLag: 1, maxLag: 2 };
    const options = { steps: 200, horizon: 2, learningRate: 1e-3 };
    const losses = async (name: string, stopAt: number): Promise<string> => {
      const context = (signal?: AbortSignal, note: (text: string) => void = () => undefined): RunContext => ({
        data: undefined,
        device: "cpu",
        folder,
        checkpoints: join(folder, name),
        signal,
        note,
      });
      const text = (): RecallStream => new RecallStream({ ...task, seed: 1 });
      if (stopAt > 0) {
        const stop = new AbortController();
        await using model = await Memformer.create({ ...recallModel(task), device: "cpu" });
        const { code } = await failure(
          trained(
            model,
            text(),
            options,
            context(stop.signal, (note) => {
              if (note.startsWith(`step ${stopAt} `)) stop.abort();
            }),
          ),
        );
        expect(code).to.equal("ERR_MEMFORMER_ABORTED");
      }
      await using model = await Memformer.create({ ...recallModel(task), device: "cpu" });
      const notes: string[] = [];
      await trained(
        model,
        text(),
        options,
        context(undefined, (note) => notes.push(note)),
      );
      expect(notes.length, "tenths that were made anew").to.equal(10 - stopAt / 20);
      using weight = model.parameter("embedding.weight");
      return Buffer.from((await weight.read()).data).toString("hex");
    };
    expect(await losses("stopped", 80)).to.equal(await losses("whole", 0));
  });
});

describe("experiments: a report", () => {
  const rows = (...values: (number | undefined)[]): (Row<unknown, { x: number }> | undefined)[] =>
    values.map((x) =>
      x === undefined ? undefined : { experiment: "e", settings: {}, result: { x }, seconds: 1, machine: {} },
    );
  const x = ({ x: value }: { x: number }): number => value;

  it("gives a cell the mean and spread of its seeds, and says what is missing", () => {
    expect(cell(rows(1.5), x)).to.equal("1.500");
    expect(cell(rows(1, 2), x)).to.equal("1.500 (1.000 to 2.000, 2 seeds)");
    expect(cell(rows(1, undefined), x)).to.equal("1.000 (1 of 2 seeds)");
    expect(cell(rows(undefined), x)).to.equal("not run");
    expect(cell(rows(NaN), x)).to.equal("–");
    expect(cell(rows(-1e-9), x)).to.equal("0.000");
    expect(cell(rows(123456.7), x)).to.equal("123456.700");
    expect(cell(rows(3.2141e9), x)).to.equal("3.214e+9");
    const failed = { experiment: "e", settings: {}, error: "step 3: the loss is NaN", seconds: 1, machine: {} };
    expect(cell([failed], x)).to.equal("failed: step 3: the loss is NaN");
  });

  it("escapes what would break a table or a page", () => {
    expect(markdown({ title: "t", columns: ["||v||"], rows: [["a|b"]] })).to.include("| \\|\\|v\\|\\| |");
    const chart: Chart = {
      name: "c",
      title: "a < b & c",
      x: { label: "x", scale: "log" },
      y: { label: '"y"', scale: "linear" },
      series: [],
    };
    expect(svg(chart)).to.include("a &lt; b &amp; c").and.include("&quot;y&quot;");
  });

  it("draws what there is: one point, none, zero on a logarithmic axis", () => {
    const draw = (points: [number, number][], scale: "log" | "linear" = "log"): string =>
      svg({
        name: "c",
        title: "t",
        x: { label: "x", scale },
        y: { label: "y", scale },
        series: [{ name: "s", points }],
      });
    for (const picture of [draw([]), draw([[1, 1]]), draw([[0, 0]], "log"), draw([[0, 0]], "linear"), draw([[1, NaN]])])
      expect(picture).to.not.match(/NaN|Infinity|undefined/);
    expect(draw([])).to.include("s (not run)");
    expect(
      draw([
        [1, 2],
        [4, 8],
      ]).match(/<circle/g),
    ).to.have.length(2);
  });
});

describe("experiments: the command line", function () {
  this.timeout(120_000);
  let bench: Bench;
  before(() => {
    bench = new Bench();
  });
  after(() => {
    bench.remove();
  });

  it("lists every experiment with what it reads", async () => {
    const { stdout, code } = await bench.run("experiment", "--list");
    expect(code).to.equal(0);
    for (const { name, title, needs = "nothing" } of experiments)
      expect(stdout).to.include(`${name}: ${title}`).and.include(`reads: ${needs}`);
  });

  it("goes on after a kill at any moment", async () => {
    const rows = bench.path("out", "rows.jsonl"),
      args = ["experiment", "mrbp", "--out", "out", "--device", "cpu", "--threads", "1"];
    const { child, ended } = bench.start(...args);
    const count = async (): Promise<number> => (await readFile(rows, "utf8").catch(() => "")).split("\n").length - 1;
    while ((await count()) < 2) await sleep(5);
    child.kill("SIGKILL");
    await ended;
    const before = await count();
    expect(before).to.be.within(2, 5);
    const { stdout, stderr, code } = await bench.run(...args);
    expect(code, stderr).to.equal(0);
    expect(stderr).to.match(/^\d of 6 runs are there already/m);
    expect(stdout).to.include("6 of 6 runs made");
    expect(await count()).to.equal(6);
  });

  for (const [what, args, message] of [
    ["a name that is none", ["recal"], /no experiment "recal"; did you mean "recall"\?/],
    ["no name", [], /name an experiment: recall, /],
    ["seeds that are no numbers", ["recall", "--seeds", "0,x"], /seeds must be whole numbers.*got "0,x"/],
    ["devices of no kind", ["recall", "--devices", "cpu,gpu"], /device must be .*got "gpu"/],
    ["a budget that is none", ["recall", "--budget", "huge"], /smoke/],
  ] as const) {
    it(`refuses ${what} as misuse`, async () => {
      const { code, stderr } = await bench.run("experiment", ...args);
      expect(code).to.equal(2);
      expect(stderr).to.match(message);
    });
  }

  it("says how to get data that is missing, before the first run", async () => {
    const { code, stderr } = await bench.run("experiment", "mnist", "--budget", "minutes", "--device", "cpu");
    expect(code).to.equal(1);
    expect(stderr)
      .to.match(/train-images-idx3-ubyte\.gz.*--data mnist:FOLDER\n/)
      .and.include("ERR_MEMFORMER_DATA");
  });
});

describe("experiments: the registry", () => {
  it("has each experiment under one name, with a claim", () => {
    expect(new Set(experiments.map(({ name }) => name)).size).to.equal(experiments.length);
    for (const { name, claim } of experiments) {
      expect(experimentOf(name).name).to.equal(name);
      expect(claim).to.not.equal("");
    }
  });
  it("takes seeds as whole numbers, each once", () => {
    expect(seedsOf("0, 3,3")).to.deep.equal([0, 3]);
  });
});
