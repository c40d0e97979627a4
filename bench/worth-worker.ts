/**
 * A process that makes runs one after the other, as its parent hands them out: the GPU is started once, not once a run.
 */
import { serveOrders } from "../lib/experiments/jobs.ts";
import { openTexts } from "../lib/experiments/worth/data.ts";
import type { Run } from "../lib/experiments/worth/plan.ts";
import { trainAndScore, type Row } from "../lib/experiments/worth/train-and-score.ts";

let texts: ReturnType<typeof openTexts> | undefined;

serveOrders<Run, Row>(async (run, place) => {
  texts ??= openTexts(run.data);
  const { train, valid } = await texts;
  return trainAndScore(run, train, valid, place);
});
