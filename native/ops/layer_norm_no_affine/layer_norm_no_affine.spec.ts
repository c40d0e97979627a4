import { expect } from "chai";
import { applyOperator, callListOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck, operator } from "../../../test/support/opcheck.ts";
import { Draw, type Numbers, numbers, rounded, SCALAR_TYPE } from "../../../test/support/opcheck-numbers.ts";
import { gradients, run } from "../../../test/support/opcheck-run.ts";
import { type OperatorSpec, TESTED_DTYPE, type SpecCase } from "../../../test/support/opcheck-spec.ts";

interface Case extends SpecCase {
  /** Of x, but for its last axis. */
  readonly rows: readonly number[];
  readonly D: number;
  readonly readers: number;
}

type Arguments = [x: Numbers, readers: number, dtype: typeof TESTED_DTYPE | number];

export const layer_norm_no_affine: OperatorSpec<Case, Arguments> = {
  name: "memformer::layer_norm_no_affine",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], rows: [3, 5], D: 7, readers: 2 },
    { what: "of one number", rows: [1], D: 1, readers: 1 },
    { what: "of one row without batch, for three readers", rows: [], D: 6, readers: 3 },
    { what: "of four axes, for four readers", rows: [2, 3, 2], D: 12, readers: 4 },
    { what: "larger", rows: [4, 100], D: 64, readers: 2 },
    { what: "as wide as a lane's four packs", rows: [5], D: 512, readers: 3 },
    { what: "wider than four packs", rows: [5], D: 644, readers: 1 },
    { what: "of a larger width, no multiple of four", rows: [9], D: 1499, readers: 2 },
    { what: "of many rows", tags: ["sanitize"], rows: [2120], D: 132, readers: 2 },
    { what: "without rows", tags: ["sanitize"], rows: [0, 3], D: 4, readers: 2 },
  ],
  inputs: ({ rows, D, readers }, draw) => [draw.numbers([...rows, D], 1, "master"), readers, TESTED_DTYPE],
  call(x, readers, dtype) {
    return callListOperator(this.name, 1 + readers, x, readers, dtype);
  },
  reference(x, readers) {
    const D = x.shape.at(-1)!,
      z = numbers(x.shape);
    for (let first = 0; first < x.data.length; first += D) {
      const row = x.data.subarray(first, first + D);
      const mean = row.reduce((total, value) => total + value, 0) / D;
      const variance = row.reduce((total, value) => total + (value - mean) ** 2, 0) / D;
      for (let d = 0; d < D; d++) z.data[first + d] = (row[d]! - mean) / Math.sqrt(variance + 1e-5);
    }
    return [{ ...x, kind: "accumulated" }, ...Array.from({ length: readers }, () => z)];
  },
  plain(x, readers, dtype) {
    const mean = (of: Tensor): Tensor => applyOperator("aten::mean.dim", of, [-1], true);
    const centred = applyOperator("aten::sub.Tensor", x, mean(x));
    const variance = mean(applyOperator("aten::mul.Tensor", centred, centred));
    const z = applyOperator(
      "aten::mul.Tensor",
      centred,
      applyOperator("aten::rsqrt", applyOperator("aten::add.Scalar", variance, 1e-5)),
    );
    return [
      applyOperator("aten::clone", x),
      ...Array.from({ length: readers }, () => applyOperator("aten::to.dtype", z, dtype)),
    ];
  },
  misuses: [
    {
      what: "a scalar",
      code: "SHAPE",
      arguments: (_, ...rest) => [numbers([]), ...rest],
      message: /^layer_norm_no_affine: x must have a last axis of at least one number, got \[\]$/,
    },
    {
      what: "rows of nothing",
      code: "SHAPE",
      arguments: (_, ...rest) => [numbers([3, 0]), ...rest],
      message: /^layer_norm_no_affine: x must have a last axis of at least one number, got \[3, 0\]$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (_, ...rest) => [numbers([3, 5, 7], () => 1, "int64"), ...rest],
      message: /^layer_norm_no_affine: x must be float32 or float64, got Long$/,
    },
    {
      what: "no readers",
      code: "CONFIG",
      arguments: (x, _, dtype) => [x, 0, dtype],
      message: /^layer_norm_no_affine: readers must be 1 to 4, got 0$/,
    },
    {
      what: "too many readers",
      code: "CONFIG",
      arguments: (x, _, dtype) => [x, 5, dtype],
      message: /^layer_norm_no_affine: readers must be 1 to 4, got 5$/,
    },
    {
      what: "rows of whole numbers",
      code: "DTYPE",
      arguments: (x, readers) => [x, readers, 4],
      message:
        /^layer_norm_no_affine: dtype must be x's dtype Double, or bfloat16 or float16 beside a float32 x, got Long$/,
    },
    {
      what: "narrow rows of a float64 x",
      code: "DTYPE",
      arguments: (x, readers) => [x, readers, SCALAR_TYPE.bfloat16],
      message:
        /^layer_norm_no_affine: dtype must be x's dtype Double, or bfloat16 or float16 beside a float32 x, got BFloat16$/,
    },
  ],
};

opcheck(layer_norm_no_affine, () => {
  const call = operator(layer_norm_no_affine);

  it("returns the gradient that comes through one reader, or through x, alone", async () => {
    const draw = new Draw(4),
      args = layer_norm_no_affine.inputs(layer_norm_no_affine.cases[0]!, draw);
    const cotangents = layer_norm_no_affine
      .reference(...args)
      .map(({ shape, kind }): Numbers => ({ ...draw.numbers(shape), kind }));
    for (const i of [0, 1, 2]) {
      const alone = await gradients(
        call,
        args,
        cotangents.map((value, j) => (j === i ? value : null)),
      );
      const among = await gradients(
        call,
        args,
        cotangents.map((value, j) => (j === i ? value : numbers(value.shape, () => 0, value.kind))),
      );
      expect(alone.map(({ data }) => data)).to.deep.equal(among.map(({ data }) => data));
      expect(alone[0]!.data.some((value) => value !== 0)).to.be.true;
    }
  });

  it("gives a float32 x's rows in bfloat16, as near as that is to those in float32", async () => {
    const args = layer_norm_no_affine.inputs(layer_norm_no_affine.cases[4]!, new Draw(5)),
      wide = await run(call, args, { dtype: "float32" });
    const narrow = await run(call, args.with(2, SCALAR_TYPE.bfloat16), { dtype: "float32" });
    expect(narrow.map(({ dtype }) => dtype)).to.deep.equal(["float32", "bfloat16", "bfloat16"]);
    for (const i of [1, 2])
      expect(narrow[i]!.data).to.deep.equal(rounded({ ...wide[i]!, kind: "floating" }, "bfloat16").data);
  });
});
