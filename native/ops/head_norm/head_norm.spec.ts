import { expect } from "chai";
import { applyOperator, callOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck, operator } from "../../../test/support/opcheck.ts";
import { Draw, type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import { run } from "../../../test/support/opcheck-run.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";

interface Case extends SpecCase {
  /** Of x, but for its last axis. */
  readonly rows: readonly number[];
  readonly groups: number;
  readonly width: number;
  readonly group: number;
  readonly normed: number;
  readonly gain?: number;
  /** Of the normed chunks of a group, one each. Default: none. */
  readonly gains?: readonly number[];
}

type Arguments = [x: Numbers, gains: Numbers | null, width: number, group: number, normed: number, gain: number];

export const headNorm: OperatorSpec<Case, Arguments> = {
  name: "memformer::head_norm",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], rows: [3, 5], groups: 2, width: 7, group: 3, normed: 2 },
    { what: "of two numbers", rows: [1], groups: 1, width: 2, group: 1, normed: 1 },
    { what: "of one head without batch, with a gain", rows: [], groups: 1, width: 6, group: 1, normed: 1, gain: 0.25 },
    { what: "of queries, keys and values of heads of 64", rows: [4, 33], groups: 1, width: 64, group: 12, normed: 8 },
    { what: "of keys and values of three layers", rows: [2, 9], groups: 3, width: 32, group: 8, normed: 4, gain: 3 },
    { what: "of heads of 100, no power of two", rows: [9], groups: 1, width: 100, group: 2, normed: 1 },
    { what: "of whole rows, wider than a warp reads at once", rows: [70], groups: 1, width: 512, group: 1, normed: 1 },
    { what: "of an odd width, wider than a warp", rows: [9], groups: 1, width: 1499, group: 1, normed: 1 },
    { what: "where nothing is normed", rows: [5], groups: 2, width: 8, group: 2, normed: 0 },
    { what: "of many rows", tags: ["sanitize"], rows: [2120], groups: 1, width: 16, group: 3, normed: 2 },
    { what: "without rows", tags: ["sanitize"], rows: [0, 3], groups: 1, width: 4, group: 2, normed: 1 },
    {
      what: "with gains, one of them 0",
      tags: ["sanitize"],
      rows: [3, 5],
      groups: 2,
      width: 7,
      group: 3,
      normed: 2,
      gain: 1.5,
      gains: [0, -2],
    },
    {
      what: "with gains of heads of 64",
      rows: [2, 50],
      groups: 1,
      width: 64,
      group: 8,
      normed: 8,
      gains: [1, 2, 0.5, 4, 1, 3, 1, 0.25],
    },
    { what: "with gains, without rows", rows: [0], groups: 1, width: 4, group: 2, normed: 1, gains: [3] },
  ],
  inputs: ({ rows, groups, width, group, normed, gain = 1, gains }, draw) => [
    draw.numbers([...rows, groups * group * width]),
    gains === undefined ? null : numbers([normed], (i) => gains[i]!, "master"),
    width,
    group,
    normed,
    gain,
  ],
  reference(x, gains, width, group, normed, gain) {
    const y = numbers(x.shape);
    for (let first = 0, chunk = 0; first < x.data.length; first += width, chunk++) {
      const values = x.data.subarray(first, first + width);
      const square = values.reduce((total, value) => total + value ** 2, 0) / width;
      const own = gain * (gains?.data[chunk % group] ?? 1),
        by = chunk % group < normed ? own / Math.sqrt(square + 1e-6) : 1;
      values.forEach((value, e) => (y.data[first + e] = value * by));
    }
    return [y];
  },
  plain(x, gains, width, group, normed, gain) {
    const chunks = applyOperator("aten::unflatten.int", x, -1, [-1, group, width]);
    const heads = applyOperator("aten::narrow", chunks, -2, 0, normed);
    const square = applyOperator("aten::mean.dim", applyOperator("aten::mul.Tensor", heads, heads), [-1], true);
    const by = applyOperator(
      "aten::mul.Scalar",
      applyOperator("aten::rsqrt", applyOperator("aten::add.Scalar", square, 1e-6)),
      gain,
    );
    const gained = (y: Tensor): Tensor =>
      gains === null
        ? y
        : applyOperator(
            "aten::mul.Tensor",
            y,
            applyOperator("aten::type_as", applyOperator("aten::unsqueeze", gains, -1), y),
          );
    const others: Tensor = applyOperator("aten::narrow", chunks, -2, normed, group - normed);
    return [
      applyOperator(
        "aten::flatten.using_ints",
        applyOperator("aten::cat", [gained(applyOperator("aten::mul.Tensor", heads, by)), others], -2),
        -3,
        -1,
      ),
    ];
  },
  misuses: [
    {
      what: "gains for other chunks",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          1,
          numbers([3], () => 1, "master"),
        ),
      message: /^head_norm: gains must have shape \(2\), got \[3\]$/,
    },
    {
      what: "a scalar",
      code: "SHAPE",
      arguments: (_, ...rest) => [numbers([]), ...rest],
      message: /^head_norm: x must have a last axis of groups of 3 x 7 numbers, got \[\]$/,
    },
    {
      what: "rows that are not whole groups",
      code: "SHAPE",
      arguments: (_, ...rest) => [numbers([3, 43]), ...rest],
      message: /^head_norm: x must have a last axis of groups of 3 x 7 numbers, got \[3, 43\]$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (_, ...rest) => [numbers([3, 42], () => 1, "int64"), ...rest],
      message: /^head_norm: x must be float32, float64 or bfloat16, got Long$/,
    },
    {
      what: "more heads to be normed than a group has",
      code: "CONFIG",
      arguments: (...args) => args.with(4, 4),
      message: /^head_norm: needs a width and a group of at least 1, of which 0 to all are normed; got 7, 3 and 4$/,
    },
    {
      what: "no gain",
      code: "CONFIG",
      arguments: (...args) => args.with(5, 0),
      message: /^head_norm: gain must be a number above 0, got 0$/,
    },
  ],
};

opcheck(headNorm, () => {
  it("norms in place what it norms elsewhere, to the bit", async () => {
    const args = headNorm.inputs(headNorm.cases[3]!, new Draw(4)),
      [elsewhere] = await run(operator(headNorm), args);
    const inPlace = await run(
      (x, _gains, ...rest) => {
        const copy = applyOperator("aten::clone", x);
        callOperator("memformer::head_norm_in_place", copy, ...rest);
        return [copy];
      },
      args,
      {},
    );
    expect(inPlace[0]!.data).to.deep.equal(elsewhere!.data);
  });
});
