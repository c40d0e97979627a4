/** The recall experiment: what its budgets train, and what the report says of stages. */
import { expect } from "chai";
import type { Budget } from "../lib/experiments/experiment.ts";
import { recall, type RecallSettings } from "../lib/experiments/recall.ts";
import { markdown } from "../lib/experiments/report/table.ts";

async function planned(budget: Budget, seeds = [0]): Promise<readonly RecallSettings[]> {
  const runs = await recall.plan({ budget, seeds, data: undefined, device: "cpu", folder: "" });
  return runs as unknown as readonly RecallSettings[];
}

describe("experiments: recall", () => {
  it("keeps the settings by which rows of the smaller budgets are known", async () => {
    const rest = '"model":{},"train":{},"seed":3';
    const size = { smoke: '"keys":8,"trainLag":2,"lags":[2,4]', minutes: '"keys":16,"trainLag":8,"lags":[8,16,32,64]' };
    expect((await planned("smoke", [3])).map((run) => JSON.stringify(run))).to.deep.equal([
      `{"lanes":16,"segmentLength":6,${size.smoke},"horizon":4,"steps":40,${rest}}`,
      `{"lanes":16,"segmentLength":6,${size.smoke},"horizon":1,"steps":160,${rest}}`,
    ]);
    expect((await planned("minutes", [3])).map((run) => JSON.stringify(run))).to.deep.equal([
      `{"lanes":32,"segmentLength":8,${size.minutes},"horizon":16,"steps":400,${rest}}`,
      `{"lanes":32,"segmentLength":8,${size.minutes},"horizon":1,"steps":6400,${rest}}`,
    ]);
  });

  it("goes to the last lag of `full` by stages that the stage before has half learned", async () => {
    const [whole, control] = await planned("full");
    const stages = [...whole!.earlier!, whole!];
    stages.slice(1).forEach(({ trainLag, horizon }, i) => {
      expect(trainLag).to.be.within(stages[i]!.trainLag + 1, 4 * stages[i]!.trainLag);
      expect(horizon, "spans a lag").to.be.at.least(trainLag);
    });
    expect(whole!.lags).to.include(256);
    [...control!.earlier!, control!].forEach(({ trainLag, horizon, steps }, i) => {
      const beside = stages[i]!;
      expect([trainLag, horizon, steps]).to.deep.equal([beside.trainLag, 1, beside.steps * beside.horizon]);
    });
  });

  it("reports stages, and one number where all have the same", async () => {
    const run: RecallSettings = {
      ...(await planned("smoke"))[0]!,
      earlier: [{ trainLag: 1, horizon: 2, steps: 30 }],
    };
    const control: RecallSettings = {
      ...run,
      horizon: 1,
      steps: 160,
      earlier: [{ trainLag: 1, horizon: 1, steps: 60 }],
    };
    const [section] = recall.report([run, control] as never, () => undefined);
    const text = markdown(section!.tables![0]!);
    expect(text).to.include("| horizon 2, then 4 | 1, then 2 | 30, then 40 |");
    expect(text).to.include("| horizon 1 | 1, then 2 | 60, then 160 |");
  });
});
