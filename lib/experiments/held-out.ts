/** Held-out text, as experiments score it. */
import type { TokenSource } from "../data/index.ts";
import type { Evaluation } from "../evaluate/evaluate.ts";
import { evaluateSource, type Scored } from "../evaluate/source.ts";
import type { Memformer } from "../model/memformer.ts";
import type { RunContext } from "./experiment.ts";

export interface HeldOut {
  readonly bitsPerByte: number;
  /** Of a token. */
  readonly nats: number;
  /** What another text's memory in place of its own costs, nats a token; null of a model that keeps none. */
  readonly shuffledCost: number | null;
}

/**
 * `scored`: segments that each of the `lanes` reads; 0: all of them. `all`: over all tokens. Rejects as
 * {@link evaluateSource} does.
 */
export async function scoreHeldOut(
  model: Memformer,
  source: TokenSource,
  { lanes, scored }: { readonly lanes: number; readonly scored: number },
  { signal }: RunContext,
): Promise<{ readonly heldOut: HeldOut; readonly all: Evaluation & Scored }> {
  const all = await evaluateSource(model, source, {
    lanes,
    ...(scored > 0 && { segments: scored }),
    ablations: model.config.memory ? ["shuffled"] : [],
    signal,
  });
  const { nats, tokens, bitsPerByte, ablations } = all,
    { shuffled } = ablations;
  const shuffledCost = shuffled === undefined ? null : (shuffled.nats - nats) / tokens;
  return { heldOut: { bitsPerByte, nats: nats / tokens, shuffledCost }, all };
}
