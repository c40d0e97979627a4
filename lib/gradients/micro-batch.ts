/**
 * A batch a few rows at a time: rows never meet but in the mean of a loss and in the sum of a gradient, so a window
 * goes forward and back for one group of rows after the other, and nothing but the results is held of more than one
 * group.
 *   loss_t = sum_g share_gt loss_gt    share_gt = count_gt / count_t, of the targets scored in segment t
 */
import { MemformerError } from "../errors.ts";
import type { State } from "../model/recurrence.ts";
import { rowsOf, scoredTargets } from "../model/segment-tensors.ts";
import { applyOperator, tidy, type Tensor } from "../engine/tensor.ts";
import { checkWindowOptions } from "./window-options.ts";
import { segmentSeed, windowWeights, type GradientMethod, type WindowResult } from "./window.ts";

/** The same method, which heeds `microBatch`: over so many rows at once, all results being those of the batch. */
export function inMicroBatches(method: GradientMethod): GradientMethod {
  return (model, window, state, options = {}) => {
    checkWindowOptions(options);
    const { microBatch, ...others } = options,
      B = window[0]?.batch ?? 0;
    if (microBatch !== undefined && (!Number.isInteger(microBatch) || microBatch < 1)) {
      throw new MemformerError("CONFIG", `microBatch must be a whole number of at least 1, got ${microBatch}`);
    }
    if (microBatch === undefined || microBatch >= B) return method(model, window, state, others);
    return tidy(() => {
      const weights = windowWeights(window, options.weights);
      const parts: WindowResult[] = [],
        shares: number[][] = [];
      for (let row = 0; row < B; row += microBatch) {
        const rows = Math.min(microBatch, B - row),
          group = window.map((segment) => rowsOf(segment, row, rows));
        const share = group.map((segment, t) => scoredTargets(segment) / Math.max(1, scoredTargets(window[t]!)));
        parts.push(
          method(
            model,
            group,
            state.map((tensor) => applyOperator("aten::narrow", tensor, 0, row, rows)),
            {
              ...others,
              weights: weights.map((weight, t) => weight * share[t]!),
              ...(options.firstRow === undefined
                ? { seed: segmentSeed(options.seed ?? 0, parts.length) }
                : { firstRow: options.firstRow + row }),
            },
          ),
        );
        shares.push(share);
      }
      return {
        losses: window.map((_, t) =>
          sum(
            parts.map(({ losses }) => losses[t]!),
            shares.map((share) => share[t]!),
          ),
        ),
        counts: window.map((_, t) =>
          sum(
            parts.map(({ counts }) => counts[t]!),
            parts.map(() => 1),
          ),
        ),
        state: whole(parts.map((part) => part.state)),
        gradient: whole(parts.map((part) => part.gradient)),
      };
    });
  };
}

/** sum_g factors_g scalars_g */
function sum(scalars: readonly Tensor[], factors: readonly number[]): Tensor {
  const first = applyOperator("aten::mul.Scalar", scalars[0]!, factors[0]!);
  return scalars
    .slice(1)
    .reduce((total, scalar, g) => applyOperator("aten::add.Tensor", total, scalar, factors[g + 1]!), first);
}

/** The groups' rows as one batch again. */
function whole(groups: readonly State[]): State {
  return groups[0]!.map((_, i) =>
    applyOperator(
      "aten::cat",
      groups.map((group) => group[i]!),
      0,
    ),
  );
}
