/**
 * One segment looked at: what each slot did with it and which slots each token read, from the segment and the states
 * around it alone. The segment is computed once more; nothing of the session's own computation is touched.
 */
import { norms, slotClass, slotMeans, type SlotClass } from "../diagnose/statistics.ts";
import { applyOperator, type Tensor, tidy } from "../engine/tensor.ts";
import type { SegmentReached } from "../generate/memory-watcher.ts";
import { openSegments } from "../generate/opened-segments.ts";
import { architectures } from "../model/architectures/index.ts";
import { Memformer } from "../model/memformer.ts";
import type { SessionModel } from "../generate/session-model.ts";
import type { State } from "../model/state.ts";

/** What slots did with a segment, and what its tokens read. M slots, N tokens. */
export interface Look {
  /** (M) what each slot did, by its weight on itself: see `slotClass`. */
  readonly classes: readonly SlotClass[];
  /** (M) |m' - m| / (|m'| + |m|), from 0, nothing, to 1. */
  readonly change: Float32Array;
  /** (M) |m'|. */
  readonly norm: Float32Array;
  /**
   * (N, K) the slots that each token read most, and how much (the mean of layers and heads; a token's weights over all
   * slots add up to 1), the most first. Slots from M on are the constant ones.
   */
  readonly slots: Uint16Array;
  readonly weights: Float32Array;
  /** K. */
  readonly kept: number;
}

/** Why the memory of sessions with this model cannot be looked at; undefined: it can. */
export function notObservable(model: SessionModel): string | undefined {
  if (model instanceof Memformer && architectures[model.config.architecture].writesFrom !== undefined) return undefined;
  const parts = model.stateLayout.map(({ name }) => name).join(", ");
  return `This model's state (${parts === "" ? "none" : parts}) is not one memory of slots with a writer, so there is nothing to show.`;
}

/** The tokens of a segment that the memory is written from, and how many before them in the document. */
export function writtenFrom(
  model: Memformer,
  { segment, position }: Pick<SegmentReached, "segment" | "position">,
): { tokens: Int32Array; start: number } {
  const { architecture, segmentLength } = model.config;
  if (architectures[architecture].writesFrom === "target") return { tokens: segment.target, start: position };
  // The first segment's source is BOS alone, which is no token of the document.
  return segment.first
    ? { tokens: segment.source.subarray(0, 1), start: position }
    : { tokens: segment.source, start: position - segmentLength };
}

/**
 * Looks at a segment of N tokens that `before` has met; both states stay the caller's. `most`: slots kept per token.
 */
export async function look(
  model: Memformer,
  segment: SegmentReached["segment"],
  { before, after }: { readonly before: State; readonly after: State },
  N: number,
  most: number,
): Promise<Look> {
  const seeing = observed(model, segment, before),
    moved = tidy(() => {
      const old = applyOperator("aten::_to_copy", before[0]!, "float32"),
        now = applyOperator("aten::_to_copy", after[0]!, "float32");
      return applyOperator("aten::cat", [old, now, applyOperator("aten::sub.Tensor", now, old, 1)], 0); // (3, M, D)
    });
  const read = moved.read();
  moved.dispose();
  const [seen, { shape, data }] = await Promise.all([seeing, read]);
  const M = shape[1]!,
    lengths = norms({ shape, data: new Float32Array(data) });
  const norm = Float32Array.from(lengths.slice(M, 2 * M)),
    change = Float32Array.from(norm, (now, m) => lengths[2 * M + m]! / (now + lengths[m]! || 1));
  const { shape: reads, data: weights } = seen.get("memory_read.weights")!;
  return {
    classes: slotMeans(seen.get("writer.self")!).map(slotClass),
    change,
    norm,
    ...mostRead(weights, N, reads[2]!, Math.min(most, reads[2]!)),
  };
}

async function observed(
  model: Memformer,
  segment: SegmentReached["segment"],
  before: State,
): ReturnType<Memformer["observe"]> {
  using opened = openSegments(model, [{ segment, state: before }]);
  return model.observe(opened.segment, opened.state, ["writer.self", "memory_read.weights"]);
}

/** The K largest of each of N rows of C weights. */
function mostRead(all: ArrayLike<number>, N: number, C: number, K: number): Pick<Look, "slots" | "weights" | "kept"> {
  const slots = new Uint16Array(N * K),
    weights = new Float32Array(N * K);
  for (let n = 0; n < N; n++) {
    let held = 0;
    for (let c = 0; c < C; c++) {
      const weight = all[n * C + c]!;
      if (held === K && !(weight > weights[n * K + K - 1]!)) continue;
      let at = held < K ? held++ : K - 1;
      for (; at > 0 && weights[n * K + at - 1]! < weight; at--) {
        weights[n * K + at] = weights[n * K + at - 1]!;
        slots[n * K + at] = slots[n * K + at - 1]!;
      }
      weights[n * K + at] = weight;
      slots[n * K + at] = c;
    }
  }
  return { slots, weights, kept: K };
}

/** The states of a segment, kept beyond the call that told of it. Free them with `using`. */
export class HeldStates implements Disposable {
  readonly before: State;
  readonly after: State;
  readonly bytes: number;

  constructor({ before, after }: SegmentReached, bytes: number) {
    const held = (state: State): State => state.map((tensor: Tensor) => tensor.detach());
    this.before = held(before);
    this.after = held(after);
    this.bytes = 2 * bytes;
  }

  [Symbol.dispose](): void {
    for (const tensor of [...this.before, ...this.after]) tensor.dispose();
  }
}
