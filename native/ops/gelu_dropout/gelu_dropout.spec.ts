import { applyOperator } from "../../../lib/index.ts";
import { opcheck, operator } from "../../../test/support/opcheck.ts";
import { Draw, type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import { expectBiasSink } from "../../../test/support/opcheck-sink.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";
import { dropout } from "../dropout/dropout.spec.ts";

interface Case extends SpecCase {
  readonly shape: readonly number[];
  /** Of dropout. Default 0: none, and no seed. */
  readonly p?: number;
  /** One a share. Default: one for all. */
  readonly seeds?: number;
  /** Whether there is a bias. Default false. */
  readonly biased?: boolean;
  /** Of the numbers. Default 3. */
  readonly scale?: number;
}

/** By its series of positive terms: 2 / sqrt(pi) exp(-x x) (x + 2 x^3 / 3 + 4 x^5 / 15 + ...). */
function erf(x: number): number {
  let sum = 0;
  for (let n = 0, term = x; Math.abs(term) > 1e-18 * Math.abs(sum); n++, term *= (2 * x * x) / (2 * n + 1)) sum += term;
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

type Arguments = [
  x: Numbers,
  bias: Numbers | null,
  biasSink: Numbers | null,
  p: number,
  seed: Numbers | null,
  site: number,
];

export const geluDropout: OperatorSpec<Case, Arguments> = {
  name: "memformer::gelu_dropout",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], shape: [3, 5, 7], p: 0.1, biased: true },
    { what: "of odd sizes, without dropout", tags: ["sanitize"], shape: [3, 5, 7], biased: true },
    { what: "of odd sizes, without bias", tags: ["sanitize"], shape: [3, 5, 7], p: 0.1 },
    { what: "with a seed a share", shape: [3, 5, 7], p: 0.5, seeds: 5, biased: true },
    { what: "with a seed a share of whole packs", shape: [6, 16], p: 0.5, seeds: 4, biased: true },
    { what: "of one number", shape: [1], p: 0.5 },
    { what: "of a scalar", shape: [] },
    { what: "of large numbers", shape: [9, 4], scale: 6 },
    { what: "larger", shape: [5, 4099], p: 0.3 },
    { what: "larger, in whole packs", shape: [16, 512], p: 0.3 },
    { what: "larger, in whole packs, with bias", shape: [2, 41, 192], p: 0.3, biased: true },
    { what: "of nothing", shape: [0, 4], p: 0.5, biased: true },
  ],
  inputs({ shape, p = 0, seeds, scale = 3, biased = false }, draw) {
    const seed = p === 0 ? null : numbers(seeds === undefined ? [] : [seeds], () => draw.below(1000), "int64");
    return [draw.numbers(shape, scale), biased ? draw.numbers([shape.at(-1)!]) : null, null, p, seed, 4];
  },
  reference(x, bias, _biasSink, p, seed, site) {
    const y = numbers(x.shape, (i) => {
      const h = x.data[i]! + (bias === null ? 0 : bias.data[i % bias.data.length]!);
      return (h / 2) * (1 + erf(h / Math.SQRT2));
    });
    return seed === null ? [y] : dropout.reference(y, p, seed, site);
  },
  plain(x, bias, _biasSink, p, seed, site) {
    const y = applyOperator("aten::gelu", bias === null ? x : applyOperator("aten::add.Tensor", x, bias));
    if (seed === null) return [y];
    return [
      applyOperator(
        "aten::mul.Tensor",
        y,
        applyOperator("memformer::dropout", applyOperator("aten::ones_like", x), p, seed, site),
      ),
    ];
  },
  misuses: [
    {
      what: "a bias of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(1, numbers([6])),
      message: /^gelu_dropout: bias must have shape \(7\), got \[6\]$/,
    },
    {
      what: "a bias of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          1,
          numbers([7], () => 1, "int64"),
        ),
      message: /^gelu_dropout: bias must have x's dtype Double, got Long$/,
    },
    {
      what: "a bias of a scalar",
      code: "SHAPE",
      arguments: (...args) => args.with(0, numbers([])),
      message: /^gelu_dropout: x must have at least one axis beside a bias, got none$/,
    },
    {
      what: "a sink of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(2, numbers([6])),
      message: /^gelu_dropout: bias_sink must have shape \(7\), got \[6\]$/,
    },
    {
      what: "a sink without bias",
      code: "CONFIG",
      arguments: (...args) => args.with(1, null).with(2, numbers([7])),
      message: /^gelu_dropout: a bias_sink needs a bias$/,
    },
    {
      what: "to drop everything",
      code: "CONFIG",
      arguments: (...args) => args.with(3, 1),
      message: /^gelu_dropout: p must be at least 0 and below 1, got 1$/,
    },
    {
      what: "dropout without a seed",
      code: "CONFIG",
      arguments: (...args) => args.with(4, null),
      message: /^gelu_dropout: dropout needs a seed$/,
    },
    {
      what: "seeds of unequal shares",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          4,
          numbers([2], () => 1, "int64"),
        ),
      message: /^gelu_dropout: seed must have shape \(\) or \(G\), where G divides the 105 numbers of x, got \[2\]$/,
    },
    {
      what: "a seed of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          4,
          numbers([], () => 1, "int32"),
        ),
      message: /^gelu_dropout: seed must be Long, got Int$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          0,
          numbers([3], () => 1, "int64"),
        ),
      message: /^gelu_dropout: x must be float32, float64 or bfloat16, got Long$/,
    },
  ],
};

opcheck(geluDropout, () => {
  it("adds the gradient of the bias to its sink, to what that holds", async () => {
    const draw = new Draw(3),
      args = geluDropout.inputs(geluDropout.cases[0]!, draw);
    await expectBiasSink(operator(geluDropout), args, [draw.numbers([3, 5, 7])], 1e-14);
  });
});
