import { expect } from "chai";
import { applyOperator, callOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { meanErrorOf } from "../../../test/support/opcheck-compare.ts";
import {
  count,
  download,
  Draw,
  EPSILON,
  type Numbers,
  numbers,
  rounded,
  upload,
} from "../../../test/support/opcheck-numbers.ts";
import { gradients } from "../../../test/support/opcheck-run.ts";
import { expectSinks } from "../../../test/support/opcheck-sink.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";

interface Case extends SpecCase {
  /** Of x, but for its last axis. */
  readonly rows: readonly number[];
  readonly input: number;
  readonly output: number;
  /** Default true. */
  readonly biased?: boolean;
}

type Arguments = [
  x: Numbers,
  weight: Numbers,
  bias: Numbers | null,
  weightSink: Numbers | null,
  biasSink: Numbers | null,
];

export const linear: OperatorSpec<Case, Arguments> = {
  name: "memformer::linear",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], rows: [3, 5], input: 7, output: 9 },
    { what: "of odd sizes, without bias", tags: ["sanitize"], rows: [3, 5], input: 7, output: 9, biased: false },
    { what: "of one number", rows: [1, 1], input: 1, output: 1 },
    { what: "of one row without batch", rows: [], input: 6, output: 4 },
    { what: "of four axes", rows: [2, 3, 2], input: 5, output: 3 },
    { what: "larger", rows: [2, 70], input: 65, output: 130 },
    { what: "without rows", tags: ["sanitize"], rows: [0, 3], input: 4, output: 5 },
  ],
  inputs: ({ rows, input, output, biased = true }, draw) => [
    draw.numbers([...rows, input]),
    draw.numbers([output, input]),
    biased ? draw.numbers([output]) : null,
    null,
    null,
  ],
  reference(x, weight, bias) {
    const [output, input] = weight.shape as [number, number],
      rows = x.shape.slice(0, -1);
    const y = numbers([...rows, output]);
    for (let row = 0; row < count(rows); row++)
      for (let o = 0; o < output; o++) {
        let sum = bias === null ? 0 : bias.data[o]!;
        for (let i = 0; i < input; i++) sum += x.data[row * input + i]! * weight.data[o * input + i]!;
        y.data[row * output + o] = sum;
      }
    return [y];
  },
  plain(x, weight, bias) {
    const y = applyOperator("aten::matmul", x, applyOperator("aten::t", weight));
    return [bias === null ? y : applyOperator("aten::add.Tensor", y, bias)];
  },
  misuses: [
    {
      what: "a scalar",
      code: "SHAPE",
      arguments: (_, ...rest) => [numbers([]), ...rest],
      message: /^linear: x must have at least one axis, got none$/,
    },
    {
      what: "a weight of another width",
      code: "SHAPE",
      arguments: (x, _, ...rest) => [x, numbers([9, 6]), ...rest],
      message: /^linear: weight must have shape \(any, 7\), got \[9, 6\]$/,
    },
    {
      what: "a bias of other outputs",
      code: "SHAPE",
      arguments: (x, weight, _, ...rest) => [x, weight, numbers([8]), ...rest],
      message: /^linear: bias must have shape \(9\), got \[8\]$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (_, ...rest) => [numbers([3, 7], () => 1, "int64"), ...rest],
      message: /^linear: x must be float32, float64 or bfloat16, got Long$/,
    },
    {
      what: "a weight of another dtype",
      code: "DTYPE",
      arguments: (x, _, ...rest) => [x, numbers([9, 7], () => 1, "int64"), ...rest],
      message: /^linear: weight must have x's dtype Double, got Long$/,
    },
    {
      what: "a sink of another shape",
      code: "SHAPE",
      arguments: (x, weight, bias) => [x, weight, bias, numbers([7, 9]), null],
      message: /^linear: weight_sink must have shape \(9, 7\), got \[7, 9\]$/,
    },
    {
      what: "a sink of another dtype",
      code: "DTYPE",
      arguments: (x, weight, bias) => [x, weight, bias, numbers([9, 7]), numbers([9], () => 0, "int64")],
      message: /^linear: bias_sink must be Double, got Long$/,
    },
    {
      what: "a sink of the bias alone",
      code: "CONFIG",
      arguments: (x, weight, bias) => [x, weight, bias, null, numbers([9])],
      message: /^linear: a bias_sink needs a weight_sink$/,
    },
  ],
};

opcheck(linear, () => {
  const call = (...args: (Tensor | number | null)[]): Tensor[] => callOperator(linear.name, ...args);
  const held = [numbers([9, 7], (i) => i % 5), numbers([9], (i) => 3 - i)];

  it("adds the gradients of weight and bias to their sinks, to what those hold", async () => {
    const draw = new Draw(3),
      args = linear.inputs(linear.cases[0]!, draw),
      cotangents = [draw.numbers([3, 5, 9])];
    await expectSinks(
      call,
      args,
      cotangents,
      [
        { of: 1, place: 3 },
        { of: 2, place: 4 },
      ],
      1e-14,
    );
  });

  it("sends the gradient of a bias without sink back", async () => {
    const draw = new Draw(4),
      args = linear.inputs(linear.cases[0]!, draw),
      cotangents = [draw.numbers([3, 5, 9])];
    const sent = await gradients(call, args, cotangents),
      sink = upload(held[0]!, "float64");
    const then = await gradients((...given) => call(...given.with(3, sink)), args, cotangents);
    expect(then[2]!.data).to.deep.equal(sent[2]!.data);
    sink.dispose();
  });

  it("adds to float32 sinks of a bfloat16 weight without rounding the gradients to bfloat16", async () => {
    const draw = new Draw(5),
      args = linear.inputs(linear.cases[5]!, draw),
      [x] = args;
    const grad = rounded(draw.numbers([140, 130]), "bfloat16");
    const rows = rounded({ ...x, shape: [140, 65] }, "bfloat16");
    const sinks = [numbers([130, 65]), numbers([130])].map((value) => upload(value, "float32"));
    const given = [upload(grad, "bfloat16"), upload(rows, "bfloat16")];
    callOperator("memformer::linear_accumulate", given[0]!, given[1]!, sinks[0]!, sinks[1]!);
    const weight = new Float64Array(130 * 65),
      bias = new Float64Array(130);
    for (let n = 0; n < 140; n++)
      for (let o = 0; o < 130; o++) {
        const g = grad.data[n * 130 + o]!;
        bias[o]! += g;
        for (let i = 0; i < 65; i++) weight[o * 65 + i]! += g * rows.data[n * 65 + i]!;
      }
    expect(meanErrorOf((await download(sinks[0]!)).data, weight)).to.be.below(16 * EPSILON.float32);
    expect(meanErrorOf((await download(sinks[1]!)).data, bias)).to.be.below(16 * EPSILON.float32);
    for (const tensor of [...given, ...sinks]) tensor.dispose();
  });
});
