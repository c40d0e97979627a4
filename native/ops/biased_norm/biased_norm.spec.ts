import { applyOperator } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";

interface Case extends SpecCase {
  readonly B: number;
  readonly M: number;
  readonly D: number;
  readonly eps?: number;
  /** Of the numbers. Default 1. */
  readonly scale?: number;
  /** Every how manieth row starts anew. Default: none. */
  readonly anew?: number;
  /** Tokens of each row's segment. Default: not told, every row has some. */
  readonly lengths?: readonly number[];
}

export const biasedNorm: OperatorSpec<
  Case,
  [memory: Numbers, bias: Numbers, eps: number, reset: Numbers | null, lengths: Numbers | null]
> = {
  name: "memformer::biased_norm",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], B: 3, M: 5, D: 7 },
    { what: "of one number", B: 1, M: 1, D: 1 },
    { what: "of one row", B: 1, M: 1, D: 33 },
    { what: "larger than a thread's share", B: 4, M: 64, D: 257 },
    { what: "in whole packs", B: 10, M: 5, D: 320 },
    { what: "with rows shorter than eps", B: 2, M: 3, D: 5, eps: 4, scale: 0.5 },
    { what: "with rows of zeros", B: 2, M: 2, D: 4, eps: 0.25, scale: 0 },
    { what: "with rows that start anew", tags: ["sanitize"], B: 5, M: 3, D: 7, anew: 2 },
    { what: "in whole packs, with rows that start anew", tags: ["sanitize"], B: 9, M: 4, D: 64, anew: 3 },
    { what: "with nothing but rows that start anew", tags: ["sanitize"], B: 2, M: 3, D: 8, anew: 1 },
    { what: "with rows without tokens", B: 4, M: 3, D: 7, lengths: [2, 0, 5, 0] },
    {
      what: "in whole packs, with rows without tokens, some of which start anew",
      B: 9,
      M: 4,
      D: 64,
      anew: 3,
      lengths: [1, 0, 0, 4, 0, 7, 0, 2, 0],
    },
    { what: "with nothing but rows without tokens", B: 2, M: 3, D: 8, lengths: [0, 0] },
    { what: "without rows", tags: ["sanitize"], B: 0, M: 3, D: 4 },
    { what: "without slots", B: 2, M: 0, D: 4 },
  ],
  inputs: ({ B, M, D, eps = 1e-6, scale = 1, anew, lengths }, draw) => [
    draw.numbers([B, M, D], scale),
    draw.numbers([M, D], scale),
    eps,
    anew === undefined ? null : numbers([B], (b) => Number(b % anew === anew - 1), "bool"),
    lengths === undefined ? null : numbers([B], (b) => lengths[b]!, "int32"),
  ],
  reference(memory, bias, eps, reset, lengths) {
    const [B, M, D] = memory.shape as [number, number, number];
    const y = numbers([B, M, D]);
    for (let row = 0; row < B * M; row++) {
      let square = 0;
      const anew = reset !== null && reset.data[Math.floor(row / M)] === 1;
      if (lengths?.data[Math.floor(row / M)] === 0 && !anew) {
        for (let d = 0; d < D; d++) y.data[row * D + d] = memory.data[row * D + d]!;
        continue;
      }
      const s = (d: number): number => (anew ? 0 : memory.data[row * D + d]!) + bias.data[(row % M) * D + d]!;
      for (let d = 0; d < D; d++) square += s(d) ** 2;
      for (let d = 0; d < D; d++) y.data[row * D + d] = s(d) / Math.max(Math.sqrt(square), eps);
    }
    return [y];
  },
  plain(memory, bias, eps, reset, lengths) {
    const held =
      reset === null
        ? memory
        : applyOperator("aten::masked_fill.Scalar", memory, applyOperator("aten::view", reset, [-1, 1, 1]), 0);
    const s = applyOperator("aten::add.Tensor", held, bias);
    const norm = applyOperator("aten::clamp_min", applyOperator("aten::linalg_vector_norm", s, 2, [-1], true), eps);
    const y = applyOperator("aten::div.Tensor", s, norm);
    if (lengths === null) return [y];
    const empty = applyOperator("aten::eq.Scalar", lengths, 0);
    const kept =
      reset === null ? empty : applyOperator("aten::logical_and", empty, applyOperator("aten::logical_not", reset));
    return [applyOperator("aten::where.self", applyOperator("aten::view", kept, [-1, 1, 1]), memory, y)];
  },
  misuses: [
    {
      what: "memory that is no (B, M, D)",
      code: "SHAPE",
      arguments: (memory, _, eps) => [numbers([2, 3]), memory, eps],
      message: /^biased_norm: memory must have shape \(any, any, any\), got \[2, 3\]$/,
    },
    {
      what: "a bias of other slots",
      code: "SHAPE",
      arguments: (memory, _, eps) => [memory, numbers([4, 7]), eps],
      message: /^biased_norm: bias must have shape \(5, 7\), got \[4, 7\]$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (_, bias, eps) => [numbers([3, 5, 7], () => 1, "int32"), bias, eps],
      message: /^biased_norm: memory must be float32, float64 or bfloat16, got Int$/,
    },
    {
      what: "a bias of another dtype",
      code: "DTYPE",
      arguments: (memory, _, eps) => [memory, numbers([5, 7], () => 1, "int64"), eps],
      message: /^biased_norm: bias must have memory's dtype Double, got Long$/,
    },
    {
      what: "resets of other rows",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          3,
          numbers([2], () => 0, "bool"),
        ),
      message: /^biased_norm: reset must have shape \(3\), got \[2\]$/,
    },
    {
      what: "resets that are no yes or no",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          3,
          numbers([3], () => 0, "int64"),
        ),
      message: /^biased_norm: reset must be Bool, got Long$/,
    },
    {
      what: "lengths of other rows",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          4,
          numbers([2], () => 1, "int32"),
        ),
      message: /^biased_norm: lengths must have shape \(3\), got \[2\]$/,
    },
    {
      what: "lengths that are not int32",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          4,
          numbers([3], () => 1, "int64"),
        ),
      message: /^biased_norm: lengths must be Int, got Long$/,
    },
  ],
};

opcheck(biasedNorm);
