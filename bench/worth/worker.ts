/**
 * A process that makes runs one after the other, as its parent hands them out: the GPU is started once, not once a run.
 */
import { openTexts } from "./data.ts";
import type { Run } from "./plan.ts";
import { trainAndScore, type Place, type Row } from "./train-and-score.ts";

/** To a worker, and back. */
export interface Order {
  readonly run: Run;
  readonly place: Place;
}
export type Answer = { readonly row: Row } | { readonly failure: string };

process.on("message", (order: Order) => {
  void make(order).then((answer) => process.send!(answer));
});
process.on("disconnect", () => {
  process.exit();
});

let texts: ReturnType<typeof openTexts> | undefined;

async function make({ run, place }: Order): Promise<Answer> {
  try {
    texts ??= openTexts(run.data);
    const { train, valid } = await texts;
    return { row: await trainAndScore(run, train, valid, place) };
  } catch (error) {
    return { failure: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}
