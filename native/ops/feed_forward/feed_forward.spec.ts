import { expect } from "chai";
import { applyOperator, callOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { download, Draw, type Numbers, numbers, upload } from "../../../test/support/opcheck-numbers.ts";
import { expectSinks } from "../../../test/support/opcheck-sink.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";
import { geluDropout } from "../gelu_dropout/gelu_dropout.spec.ts";
import { linear } from "../linear/linear.spec.ts";

interface Case extends SpecCase {
  /** Of x, but for its last axis. */
  readonly rows: readonly number[];
  readonly D: number;
  readonly F: number;
  /** Default: D. */
  readonly output?: number;
  /** Of dropout. Default 0: none, and no seed. */
  readonly p?: number;
  /** Whether there is a second bias. Default true. */
  readonly biased?: boolean;
}

type Arguments = [
  x: Numbers,
  up: Numbers,
  upBias: Numbers,
  down: Numbers,
  downBias: Numbers | null,
  upSink: Numbers | null,
  upBiasSink: Numbers | null,
  downSink: Numbers | null,
  downBiasSink: Numbers | null,
  p: number,
  seed: Numbers | null,
  site: number,
];

export const feedForward: OperatorSpec<Case, Arguments> = {
  name: "memformer::feed_forward",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], rows: [3, 5], D: 7, F: 9, output: 6, p: 0.1 },
    { what: "of odd sizes, without dropout", tags: ["sanitize"], rows: [3, 5], D: 7, F: 9 },
    { what: "of odd sizes, without a second bias", tags: ["sanitize"], rows: [3, 5], D: 7, F: 9, biased: false },
    { what: "of one number", rows: [1], D: 1, F: 1 },
    { what: "of one row without batch", rows: [], D: 6, F: 4 },
    { what: "without rows", tags: ["sanitize"], rows: [0, 3], D: 4, F: 5 },
    { what: "with sizes of the fused kernels, but few rows", rows: [2, 3], D: 64, F: 128 },
    // These a GPU of compute capability 9.0 takes in the fused kernels: no size a multiple of their tiles.
    { what: "of many rows", tags: ["sanitize"], rows: [4, 65], D: 72, F: 136 },
    { what: "of many rows, without a second bias", tags: ["sanitize"], rows: [300], D: 64, F: 72, biased: false },
    { what: "of many rows, with dropout", tags: ["sanitize"], rows: [260], D: 64, F: 64, p: 0.3 },
  ],
  inputs({ rows, D, F, output = D, p = 0, biased = true }, draw) {
    const weight = (out: number, width: number): Numbers => draw.numbers([out, width], 2 / Math.sqrt(width));
    const seed = p === 0 ? null : numbers([], () => draw.below(1000), "int64");
    return [
      draw.numbers([...rows, D], 2),
      weight(F, D),
      draw.numbers([F]),
      weight(output, F),
      biased ? draw.numbers([output]) : null,
      null,
      null,
      null,
      null,
      p,
      seed,
      4,
    ];
  },
  reference(x, up, upBias, down, downBias, _upSink, _upBiasSink, _downSink, _downBiasSink, p, seed, site) {
    const [product] = linear.reference(x, up, null, null, null);
    const [activation] = geluDropout.reference(product!, upBias, null, p, seed, site);
    return linear.reference(activation!, down, downBias, null, null);
  },
  plain(x, up, upBias, down, downBias, _upSink, _upBiasSink, _downSink, _downBiasSink, p, seed, site) {
    const [product] = linear.plain(x, up, null, null, null);
    const [activation] = geluDropout.plain(product!, upBias, null, p, seed, site);
    return linear.plain(activation!, down, downBias, null, null);
  },
  misuses: [
    {
      what: "a scalar",
      code: "SHAPE",
      arguments: (...args) => args.with(0, numbers([])),
      message: /^feed_forward: x must have at least one axis, got none$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          0,
          numbers([3, 7], () => 1, "int64"),
        ),
      message: /^feed_forward: x must be float32, float64 or bfloat16, got Long$/,
    },
    {
      what: "a first weight of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(1, numbers([9, 6])),
      message: /^feed_forward: up must have shape \(any, 7\), got \[9, 6\]$/,
    },
    {
      what: "a first bias of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(2, numbers([8])),
      message: /^feed_forward: up_bias must have shape \(9\), got \[8\]$/,
    },
    {
      what: "a second weight of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(3, numbers([6, 8])),
      message: /^feed_forward: down must have shape \(any, 9\), got \[6, 8\]$/,
    },
    {
      what: "a second weight of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          3,
          numbers([6, 9], () => 1, "int64"),
        ),
      message: /^feed_forward: down must have x's dtype Double, got Long$/,
    },
    {
      what: "a second bias of other outputs",
      code: "SHAPE",
      arguments: (...args) => args.with(4, numbers([7])),
      message: /^feed_forward: down_bias must have shape \(6\), got \[7\]$/,
    },
    {
      what: "a sink of another shape",
      code: "SHAPE",
      arguments: (...args) => args.with(5, numbers([7, 9])),
      message: /^feed_forward: up_sink must have shape \(9, 7\), got \[7, 9\]$/,
    },
    {
      what: "a sink of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          6,
          numbers([9], () => 0, "int64"),
        ),
      message: /^feed_forward: up_bias_sink must be Double, got Long$/,
    },
    {
      what: "a sink of the second bias alone",
      code: "CONFIG",
      arguments: (...args) => args.with(8, numbers([6])),
      message: /^feed_forward: a down_bias_sink needs a down_sink$/,
    },
    {
      what: "a sink without the second bias",
      code: "CONFIG",
      arguments: (...args) =>
        args
          .with(4, null)
          .with(7, numbers([6, 9]))
          .with(8, numbers([6])),
      message: /^feed_forward: a down_bias_sink needs a down_bias$/,
    },
    {
      what: "to drop everything",
      code: "CONFIG",
      arguments: (...args) => args.with(9, 1),
      message: /^gelu_dropout: p must be at least 0 and below 1, got 1$/,
    },
    {
      what: "dropout without a seed",
      code: "CONFIG",
      arguments: (...args) => args.with(10, null),
      message: /^gelu_dropout: dropout needs a seed$/,
    },
  ],
};

opcheck(feedForward, () => {
  const call = (...args: (Tensor | number | null)[]): Tensor[] => callOperator(feedForward.name, ...args);

  it("gives the bits of linear, gelu_dropout and linear", async () => {
    const draw = new Draw(2),
      args = feedForward.inputs(feedForward.cases[0]!, draw);
    const [x, up, upBias, down, downBias, , , , , p, seed, site] = args.map((value) =>
      typeof value === "object" && value !== null ? upload(value, "bfloat16") : value,
    );
    const product = applyOperator("memformer::linear", x!, up!, null, null, null);
    const activation = applyOperator("memformer::gelu_dropout", product, upBias!, null, p!, seed!, site!);
    const expected = applyOperator("memformer::linear", activation, down!, downBias!, null, null);
    const [found] = call(x!, up!, upBias!, down!, downBias!, null, null, null, null, p!, seed!, site!);
    expect((await download(found!)).data).to.deep.equal((await download(expected)).data);
    for (const tensor of [x, up, upBias, down, downBias, seed, product, activation, expected, found])
      (tensor as Tensor).dispose();
  });

  it("adds the gradients of weights and biases to their sinks, to what those hold", async () => {
    const draw = new Draw(3),
      args = feedForward.inputs(feedForward.cases[0]!, draw),
      cotangents = [draw.numbers([3, 5, 6])];
    await expectSinks(
      call,
      args,
      cotangents,
      [1, 2, 3, 4].map((of) => ({ of, place: of + 4 })),
      1e-14,
    );
  });
});
