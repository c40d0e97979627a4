import { apply } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { count, type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import type { OperatorSpec } from "../../../test/support/opcheck-spec.ts";

interface Case {
  readonly what: string;
  /** Of x, but for its last axis. */
  readonly rows: readonly number[];
  readonly input: number;
  readonly output: number;
  /** Default true. */
  readonly biased?: boolean;
}

export const linear: OperatorSpec<Case, [x: Numbers, weight: Numbers, bias: Numbers | null]> = {
  name: "memformer::linear",
  cases: [
    { what: "of odd sizes", rows: [3, 5], input: 7, output: 9 },
    { what: "of odd sizes, without bias", rows: [3, 5], input: 7, output: 9, biased: false },
    { what: "of one number", rows: [1, 1], input: 1, output: 1 },
    { what: "of one row without batch", rows: [], input: 6, output: 4 },
    { what: "of four axes", rows: [2, 3, 2], input: 5, output: 3 },
    { what: "larger", rows: [2, 70], input: 65, output: 130 },
    { what: "without rows", rows: [0, 3], input: 4, output: 5 },
  ],
  inputs: ({ rows, input, output, biased = true }, draw) =>
    [draw.numbers([...rows, input]), draw.numbers([output, input]), biased ? draw.numbers([output]) : null],
  reference(x, weight, bias) {
    const [output, input] = weight.shape as [number, number], rows = x.shape.slice(0, -1);
    const y = numbers([...rows, output]);
    for (let row = 0; row < count(rows); row++) for (let o = 0; o < output; o++) {
      let sum = bias === null ? 0 : bias.data[o]!;
      for (let i = 0; i < input; i++) sum += x.data[row * input + i]! * weight.data[o * input + i]!;
      y.data[row * output + o] = sum;
    }
    return [y];
  },
  plain(x, weight, bias) {
    const y = apply("aten::matmul", x, apply("aten::t", weight));
    return [bias === null ? y : apply("aten::add.Tensor", y, bias)];
  },
  misuses: [
    {
      what: "a scalar", code: "SHAPE",
      arguments: (_, weight, bias) => [numbers([]), weight, bias],
      message: /^linear: x must have at least one axis, got none$/,
    },
    {
      what: "a weight of another width", code: "SHAPE",
      arguments: (x, _, bias) => [x, numbers([9, 6]), bias],
      message: /^linear: weight must have shape \(any, 7\), got \[9, 6\]$/,
    },
    {
      what: "a bias of other outputs", code: "SHAPE",
      arguments: (x, weight) => [x, weight, numbers([8])],
      message: /^linear: bias must have shape \(9\), got \[8\]$/,
    },
    {
      what: "whole numbers", code: "DTYPE",
      arguments: (_, weight, bias) => [numbers([3, 7], () => 1, "int64"), weight, bias],
      message: /^linear: x must be float32, float64 or bfloat16, got Long$/,
    },
    {
      what: "a weight of another dtype", code: "DTYPE",
      arguments: (x, _, bias) => [x, numbers([9, 7], () => 1, "int64"), bias],
      message: /^linear: weight must have x's dtype Double, got Long$/,
    },
  ],
  cost({ rows, input, output }, size) {
    const n = count(rows);
    return { bytes: size * (n * (input + output) + (input + 1) * output), flops: 2 * n * input * output };
  },
};

opcheck(linear);
