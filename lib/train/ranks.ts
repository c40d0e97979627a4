/** What ranks that train together agree on, and what one of them does for all. */
import { readFileSync } from "node:fs";
import type { SegmentStream } from "../data/segment-stream.ts";
import type { Group } from "../distributed/group.ts";
import type { Lanes } from "../distributed/share.ts";
import { applyOperator, tidy } from "../engine/tensor.ts";
import { MemformerError } from "../errors.ts";
import type { State, TrainableModel } from "../model/recurrence.ts";
import { weightsHash } from "../model/weights-hash.ts";
import type { TrainConfig } from "./config.ts";

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

/** Steps between two comparisons of all ranks' weights. */
export const COMPARE_EVERY = 200;

interface Run {
  readonly model: TrainableModel;
  readonly config: TrainConfig;
  readonly step: number;
}

interface Asked {
  readonly checkpoints?: string;
  readonly resume?: boolean;
  readonly evaluate?: unknown;
}

/**
 * Before the first step: everything that decides how many collectives a rank makes, of which shapes, and of which
 * numbers. Throws MemformerError DISTRIBUTED, naming the rank that differs and in what.
 */
export async function agreeToTrain(
  group: Group,
  { model, config, step }: Run,
  stream: SegmentStream,
  { checkpoints, evaluate }: Asked,
): Promise<void> {
  await group.agree("the configuration", {
    version,
    ranks: group.world,
    model: model.config,
    train: config,
    stream: { lanes: stream.lanes, segmentLength: stream.segmentLength, position: stream.position() },
    checkpoints: checkpoints !== undefined,
    evaluate: evaluate !== undefined,
    step,
    parameters: model.parameters.map(({ name, shape }) => [name, ...shape]),
  });
  await agreeOnWeights(group, model);
}

/** Throws MemformerError DISTRIBUTED where the weights of a rank are not those of rank 0, to the bit. */
export async function agreeOnWeights(group: Group, model: TrainableModel): Promise<void> {
  await group.agree("the weights' hash", await weightsHash(model));
}

/**
 * What `work` resolves with on rank 0, which alone does it, on every rank: the others wait however long it takes. Where
 * it fails rank 0 throws its error, and the others DISTRIBUTED with its message.
 */
export async function onFirstRank<Value>(group: Group, name: string, work: () => Promise<Value>): Promise<Value> {
  type Outcome = { readonly value: Value } | { readonly failed: string };
  let failure: unknown, outcome: Outcome | undefined;
  if (group.rank === 0) {
    try {
      outcome = { value: await work() };
    } catch (error) {
      failure = error;
      outcome = { failed: error instanceof Error ? error.message : String(error) };
    }
  }
  const shared = await group.share<Outcome>(name, outcome);
  if ("value" in shared) return shared.value;
  if (group.rank === 0) throw failure;
  const { rank, step } = group;
  throw new MemformerError("DISTRIBUTED", `${name} has failed on rank 0: ${shared.failed}`, {
    details: { rank, peer: 0, step, collective: name },
  });
}

/** A rank's rows of the state of all. */
export function rowsOfState(state: State, { first, count }: Lanes): State {
  const rows = tidy(() =>
    state.map((tensor) => applyOperator("aten::clone", applyOperator("aten::narrow", tensor, 0, first, count))),
  );
  for (const tensor of state) tensor.dispose();
  return rows;
}
