/** Figure 5: FLOPs, time and peak memory by the length of the context and by the size of what is kept. */
import { experiment } from "./experiment.ts";
import { measureCost, type CostResult } from "./cost/measure.ts";
import { costPlan, type CostSettings } from "./cost/plan.ts";
import { costReport } from "./cost/report.ts";

export const cost = experiment<CostSettings, CostResult>({
  name: "cost",
  title: "Cost by context and by what is kept",
  claim:
    "time and FLOPs grow linearly with the context, memory does not; 8.1 times less memory and 3.2 times faster at inference (abstract, Figure 5).",
  plan: async ({ budget, device }) => costPlan(budget, device),
  run: measureCost,
  report: costReport,
});
