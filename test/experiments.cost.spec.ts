/** Cost: straight lines, FLOPs by the models' formulas, and work that does not fit. */
import { expect } from "chai";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MemformerError } from "../lib/index.ts";
import { measureCost } from "../lib/experiments/cost/measure.ts";
import { costPlan } from "../lib/experiments/cost/plan.ts";
import type { Experiment, RunContext } from "../lib/experiments/experiment.ts";
import { segmentFlops } from "../lib/experiments/flops.ts";
import { fitted, lineText } from "../lib/experiments/report/fit.ts";
import { cell } from "../lib/experiments/report/table.ts";
import { runExperiment } from "../lib/experiments/run.ts";

describe("experiments: cost", () => {
  it("fits the line of least squares, and says how well", () => {
    expect(
      fitted([
        [1, 3],
        [2, 5],
        [4, 9],
      ]),
    ).to.deep.equal({ intercept: 1, slope: 2, r2: 1 });
    const line = fitted([
      [0, 0],
      [1, 0],
      [2, 3],
      [NaN, 7],
    ])!;
    expect(line.slope).to.be.closeTo(1.5, 1e-12);
    expect(line.intercept).to.be.closeTo(-0.5, 1e-12);
    expect(line.r2).to.be.closeTo(0.75, 1e-12);
    expect(
      fitted([
        [1, 3],
        [1, 4],
      ]),
    ).to.equal(undefined);
    expect(lineText({ intercept: 1, slope: -0.25, r2: 0.5 }, "N")).to.equal("1 − 0.25 N, R² 0.5000");
  });

  it("counts FLOPs that grow with the context linearly, but for full attention", () => {
    const runs = costPlan("full", "cpu").filter(({ axis, work }) => axis === "context" && work === "read");
    for (const name of new Set(runs.map((run) => run.name))) {
      const [first, ...others] = runs
        .filter((run) => run.name === name)
        .map(({ model, context }) => {
          const segments = context / (model.segmentLength as number);
          return { context, a: (segments * segmentFlops(model as object).forward) / context };
        });
      const growth = others.at(-1)!.a / first!.a;
      if (name === "full attention") expect(growth, name).to.be.above(2);
      else expect(growth, name).to.be.closeTo(1, 1e-9);
    }
  });

  it("generates to the end of a segment that is longer than what a round generates", async () => {
    const settings = costPlan("smoke", "cpu").find(
      ({ name, work }) => name === "full attention" && work === "generate",
    )!;
    const longer = { ...settings, model: { ...settings.model, segmentLength: 160 }, context: 160, rounds: 1 };
    const context = { device: "cpu" } as RunContext;
    expect((await measureCost(longer, context)).tokens).to.equal(128 * settings.batch);
  });

  it("writes a row that says so where memory does not suffice, and goes on", async () => {
    const out = await mkdtemp(join(tmpdir(), "memformer-cost-"));
    const large: Experiment = {
      name: "large",
      title: "Large",
      claim: "none",
      plan: async () => [{ n: 1 }, { n: 2 }],
      async run({ n }) {
        if (n === 1) throw new MemformerError("OUT_OF_MEMORY", "out of GPU memory");
        return { n: Number(n) };
      },
      report: (runs, rows) => [
        {
          title: "t",
          tables: [{ title: "t", columns: ["n"], rows: runs.map((run) => [cell([rows(run)], ({ n }) => Number(n))]) }],
        },
      ],
    };
    try {
      const { left, path } = await runExperiment(large, { out, budget: "smoke", seeds: [0], device: "cpu" });
      expect(left).to.equal(0);
      expect(await readFile(path, "utf8"))
        .to.include("<td>failed: out of GPU memory")
        .and.include("<td>2.000");
    } finally {
      await rm(out, { recursive: true, force: true });
    }
  });
});
