import { expect } from "chai";
import { applyOperator, callOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { errorOf, meanErrorOf } from "../../../test/support/opcheck-compare.ts";
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
import { gradients, run } from "../../../test/support/opcheck-run.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";
import { dropout } from "../dropout/dropout.spec.ts";

interface Case extends SpecCase {
  /** Of x, but for its last axis. */
  readonly rows: readonly number[];
  readonly D: number;
  /** Whether there is a branch. Default true. */
  readonly branched?: boolean;
  /** Whether the branch has a bias. Default false. */
  readonly biased?: boolean;
  /** Of dropout. Default 0: none, and no seed. */
  readonly p?: number;
  /** One a share. Default: one for all. */
  readonly seeds?: number;
}

type Arguments = [
  x: Numbers,
  branch: Numbers | null,
  branchBias: Numbers | null,
  weight: Numbers,
  bias: Numbers,
  weightSink: Numbers | null,
  biasSink: Numbers | null,
  branchBiasSink: Numbers | null,
  p: number,
  seed: Numbers | null,
  site: number,
  dtype: number | null,
];

export const addNorm: OperatorSpec<Case, Arguments> = {
  name: "memformer::add_norm",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], rows: [3, 5], D: 7, p: 0.25, biased: true },
    { what: "of odd sizes, without dropout", tags: ["sanitize"], rows: [3, 5], D: 7, biased: true },
    { what: "of odd sizes, without branch", tags: ["sanitize"], rows: [3, 5], D: 7, branched: false },
    { what: "of one row without batch", rows: [], D: 6, biased: true },
    { what: "of a warp's width", rows: [2, 70], D: 128, p: 0.1, biased: true },
    { what: "of four axes, without bias of the branch", rows: [2, 3, 2], D: 12, p: 0.5 },
    { what: "with a seed a share", rows: [3, 5], D: 7, p: 0.5, seeds: 5, biased: true },
    { what: "with a seed a share of one row and a half", rows: [6], D: 8, p: 0.5, seeds: 4, biased: true },
    { what: "of a width between", rows: [3, 11], D: 260, p: 0.1 },
    { what: "of a large width", rows: [9], D: 1500, p: 0.1, biased: true },
    { what: "of a larger width", rows: [3], D: 2052, p: 0.1, biased: true },
    { what: "of many rows", tags: ["sanitize"], rows: [2120], D: 132, biased: true },
    { what: "larger, without branch", rows: [4, 100], D: 64, branched: false },
    { what: "without rows", tags: ["sanitize"], rows: [0, 3], D: 4, p: 0.5, biased: true },
  ],
  inputs({ rows, D, branched = true, biased = false, p = 0, seeds }, draw) {
    const seed = p === 0 ? null : numbers(seeds === undefined ? [] : [seeds], () => draw.below(1000), "int64");
    return [
      draw.numbers([...rows, D]),
      branched ? draw.numbers([...rows, D]) : null,
      biased ? draw.numbers([D]) : null,
      draw.numbers([D]),
      draw.numbers([D]),
      null,
      null,
      null,
      p,
      seed,
      3,
      null,
    ];
  },
  reference(x, branch, branchBias, weight, bias, _weightSink, _biasSink, _branchBiasSink, p, seed, site) {
    const shifted =
      branch && numbers(x.shape, (i) => branch.data[i]! + (branchBias?.data[i % branchBias.data.length] ?? 0));
    const added = shifted === null || seed === null ? shifted : dropout.reference(shifted, p, seed, site)[0]!;
    const sum = numbers(x.shape, (i) => x.data[i]! + (added?.data[i] ?? 0)),
      normed = numbers(x.shape);
    const D = weight.data.length;
    for (let first = 0; first < count(x.shape); first += D) {
      const row = sum.data.subarray(first, first + D);
      const mean = row.reduce((total, s) => total + s, 0) / D;
      const variance = row.reduce((total, s) => total + (s - mean) ** 2, 0) / D;
      for (let d = 0; d < D; d++) {
        normed.data[first + d] = ((row[d]! - mean) / Math.sqrt(variance + 1e-5)) * weight.data[d]! + bias.data[d]!;
      }
    }
    return [sum, normed];
  },
  plain(x, branch, branchBias, weight, bias, _weightSink, _biasSink, _branchBiasSink, p, seed, site) {
    let sum = x;
    if (branch !== null) {
      const shifted = branchBias === null ? branch : applyOperator("aten::add.Tensor", branch, branchBias);
      const added =
        seed === null
          ? shifted
          : applyOperator(
              "aten::mul.Tensor",
              shifted,
              applyOperator("memformer::dropout", applyOperator("aten::ones_like", branch), p, seed, site),
            );
      sum = applyOperator("aten::add.Tensor", x, added);
    }
    const mean = (of: Tensor): Tensor => applyOperator("aten::mean.dim", of, [-1], true);
    const centred = applyOperator("aten::sub.Tensor", sum, mean(sum));
    const variance = mean(applyOperator("aten::mul.Tensor", centred, centred));
    const z = applyOperator(
      "aten::mul.Tensor",
      centred,
      applyOperator("aten::rsqrt", applyOperator("aten::add.Scalar", variance, 1e-5)),
    );
    return [sum, applyOperator("aten::add.Tensor", applyOperator("aten::mul.Tensor", z, weight), bias)];
  },
  misuses: [
    {
      what: "a scalar",
      code: "SHAPE",
      arguments: (_, branch, ...rest) => [numbers([]), branch, ...rest],
      message: /^add_norm: x must have rows of at least one number, got \[\]$/,
    },
    {
      what: "a branch of other rows",
      code: "SHAPE",
      arguments: (x, _, ...rest) => [x, numbers([3, 6, 7]), ...rest],
      message: /^add_norm: branch must have x's shape \[3, 5, 7\], got \[3, 6, 7\]$/,
    },
    {
      what: "a weight of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(3, numbers([6])),
      message: /^add_norm: weight must have shape \(7\), got \[6\]$/,
    },
    {
      what: "a bias of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(4, numbers([8])),
      message: /^add_norm: bias must have shape \(7\), got \[8\]$/,
    },
    {
      what: "a sink of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(5, numbers([6])),
      message: /^add_norm: weight_sink must have shape \(7\), got \[6\]$/,
    },
    {
      what: "a sink of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          6,
          numbers([7], () => 0, "int64"),
        ),
      message: /^add_norm: bias_sink must be Double, got Long$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (_, branch, ...rest) => [numbers([3, 5, 7], () => 1, "int64"), branch, ...rest],
      message: /^add_norm: x must be float32, float64 or bfloat16, got Long$/,
    },
    {
      what: "a branch of another dtype",
      code: "DTYPE",
      arguments: (x, _, ...rest) => [x, numbers([3, 5, 7], () => 1, "int64"), ...rest],
      message: /^add_norm: branch must have x's dtype Double, or bfloat16 or float16 beside a float32 x, got Long$/,
    },
    {
      what: "a result of another dtype",
      code: "DTYPE",
      arguments: (...args) => args.with(11, 6),
      message: /^add_norm: dtype must be x's dtype Double, or bfloat16 or float16 beside a float32 x, got Float$/,
    },
    {
      what: "to drop everything",
      code: "CONFIG",
      arguments: (...args) => args.with(8, 1),
      message: /^add_norm: p must be at least 0 and below 1, got 1$/,
    },
    {
      what: "dropout without a seed",
      code: "CONFIG",
      arguments: (...args) => args.with(9, null),
      message: /^add_norm: dropout needs a seed$/,
    },
    {
      what: "seeds of unequal shares",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          9,
          numbers([2], () => 1, "int64"),
        ),
      message: /^add_norm: seed must have shape \(\) or \(G\), where G divides the 105 numbers of x, got \[2\]$/,
    },
    {
      what: "a branch's bias of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(2, numbers([6])),
      message: /^add_norm: branch_bias must have shape \(7\), got \[6\]$/,
    },
    {
      what: "a branch's bias of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          2,
          numbers([7], () => 1, "int64"),
        ),
      message: /^add_norm: branch_bias must have branch's dtype Double, got Long$/,
    },
    {
      what: "a branch's bias without branch",
      code: "CONFIG",
      arguments: (...args) => args.with(1, null),
      message: /^add_norm: a branch_bias needs a branch$/,
    },
    {
      what: "a sink of a branch's bias that is not there",
      code: "CONFIG",
      arguments: (...args) => args.with(2, null).with(7, numbers([7])),
      message: /^add_norm: a branch_bias_sink needs a branch_bias$/,
    },
  ],
};

opcheck(addNorm, () => {
  const call = (...args: (Tensor | number | null)[]): Tensor[] => callOperator(addNorm.name, ...args);

  it("adds the gradients of the branch's bias, weight and bias to their sinks, to what those hold", async () => {
    const draw = new Draw(3),
      args = addNorm.inputs(addNorm.cases[0]!, draw);
    const cotangents = [draw.numbers([3, 5, 7]), draw.numbers([3, 5, 7])];
    const sent = await gradients(call, args, cotangents);
    const held = [numbers([7], (i) => i % 3), numbers([7], (i) => i), numbers([7], (i) => 3 - i)];
    const sinks = held.map((value) => upload(value, "float64")),
      [ofBranch, ofWeight, ofBias] = sinks;
    const sunk = (...given: (Tensor | number | null)[]): Tensor[] =>
      call(...given.with(5, ofWeight!).with(6, ofBias!).with(7, ofBranch!));
    const then = await gradients(sunk, args, cotangents);
    expect(then[0]!.data).to.deep.equal(sent[0]!.data);
    expect(then[1]!.data).to.deep.equal(sent[1]!.data);
    for (const [i, sink] of sinks.entries()) {
      const grad = sent[2 + i]!.data;
      expect(then[2 + i]!.data.every((value) => value === 0)).to.be.true;
      expect(
        errorOf(
          (await download(sink)).data,
          held[i]!.data.map((value, d) => value + grad[d]!),
        ),
      ).to.be.below(1e-12);
      sink.dispose();
    }
  });

  for (const [i, what] of [
    [0, "sum"],
    [1, "normed"],
  ] as const) {
    it(`returns the gradient that comes through ${what} alone`, async () => {
      const draw = new Draw(4),
        args = addNorm.inputs(addNorm.cases[0]!, draw),
        one = draw.numbers([3, 5, 7]);
      const alone = await gradients(
        call,
        args,
        [one, one].map((value, j) => (j === i ? value : null)),
      );
      const both = await gradients(
        call,
        args,
        [one, one].map((value, j) => (j === i ? value : numbers([3, 5, 7]))),
      );
      alone.forEach(({ data }, j) => {
        expect(data.every((value, k) => Math.abs(value - both[j]!.data[k]!) < 1e-14)).to.be.true;
      });
    });
  }

  it("takes a bfloat16 branch and its bias beside a float32 x, and gives bfloat16 rows", async () => {
    const draw = new Draw(5),
      args = addNorm.inputs(addNorm.cases[4]!, draw),
      shape = args[0].shape;
    const narrow = [args[1]!, args[2]!].map((value) => rounded(value, "bfloat16"));
    const uploaded = narrow.map((value) => upload(value, "bfloat16")),
      leaves = uploaded.map((value) => value.leaf());
    const mixed = (...given: (Tensor | number | null)[]): Tensor[] =>
      callOperator(addNorm.name, ...given.with(1, leaves[0]!).with(2, leaves[1]!).slice(0, -1), "bfloat16");
    const exact = args.with(1, narrow[0]!).with(2, narrow[1]!) as Arguments,
      [sum, normed] = addNorm.reference(...exact);
    const found = await run(mixed, args, { dtype: "float32" });
    expect(found.map(({ dtype }) => dtype)).to.deep.equal(["float32", "bfloat16"]);
    expect(errorOf(found[0]!.data, sum!.data)).to.be.below(4 * EPSILON.float32);
    expect(meanErrorOf(found[1]!.data, normed!.data)).to.be.below(EPSILON.bfloat16 / 2);
    const cotangents = [draw.numbers(shape), null];
    const [gradX, ...grads] = await gradients(call, exact, cotangents);
    const [gradThen] = await gradients(mixed, args, cotangents, { dtype: "float32" });
    expect(errorOf(gradThen!.data, gradX!.data)).to.be.below(EPSILON.float32);
    for (const [i, leaf] of leaves.entries()) {
      const gradient = leaf.gradient(),
        { dtype, data } = await download(gradient);
      expect(dtype).to.equal("bfloat16");
      expect(meanErrorOf(data, grads[i]!.data)).to.be.below(EPSILON.bfloat16 / 2);
      gradient.dispose();
    }
    for (const tensor of [...uploaded, ...leaves]) tensor.dispose();
  });
});
