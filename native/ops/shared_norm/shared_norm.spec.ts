import { expect } from "chai";
import { apply, opList, type Tensor } from "../../../lib/index.ts";
import { biasesOf, type Layers, listsOf, weightsOf } from "../../../test/support/layer-lists.ts";
import { opcheck, operator } from "../../../test/support/opcheck.ts";
import { errorOf } from "../../../test/support/opcheck-compare.ts";
import {
  count, download, Draw, type FloatingDType, type Found, type Numbers, numbers, rounded, SCALAR_TYPE, upload,
} from "../../../test/support/opcheck-numbers.ts";
import { gradients, run } from "../../../test/support/opcheck-run.ts";
import { type Argument, type Call, type OperatorSpec, TESTED_DTYPE } from "../../../test/support/opcheck-spec.ts";

interface Case {
  readonly what: string;
  /** Of x, but for its last axis. */
  readonly rows: readonly number[];
  readonly D: number;
  readonly L: number;
}

type Arguments = [x: Numbers, dtype: typeof TESTED_DTYPE | number, ...layers: Layers];

export const sharedNorm: OperatorSpec<Case, Arguments> = {
  name: "memformer::shared_norm",
  cases: [
    { what: "of odd sizes", rows: [3, 5], D: 7, L: 2 },
    { what: "of one layer", rows: [3, 5], D: 7, L: 1 },
    { what: "of one number", rows: [1], D: 1, L: 1 },
    { what: "of one row without batch, for three layers", rows: [], D: 6, L: 3 },
    { what: "of four axes, for four layers", rows: [2, 3, 2], D: 12, L: 4 },
    { what: "of five layers", rows: [3, 5], D: 7, L: 5 },
    { what: "of nine layers", rows: [2, 9], D: 8, L: 9 },
    { what: "larger", rows: [4, 100], D: 64, L: 2 },
    { what: "of a larger width, no multiple of four", rows: [9], D: 1499, L: 2 },
    { what: "of many rows", rows: [2120], D: 132, L: 2 },
    { what: "without rows", rows: [0, 3], D: 4, L: 2 },
  ],
  inputs({ rows, D, L }, draw) {
    const layer = (): Layers => [draw.numbers([D], 1, "master"), draw.numbers([D], 1, "master"), null, null];
    return [draw.numbers([...rows, D], 1, "master"), TESTED_DTYPE, ...Array.from({ length: L }, layer).flat()];
  },
  call(x, dtype, ...layers) {
    const lists = listsOf(layers);
    return opList(this.name, lists[0].length, x, ...lists, dtype);
  },
  reference(x, _dtype, ...layers) {
    const D = x.shape.at(-1)!, biases = biasesOf(layers);
    return weightsOf(layers).map((weight, l) => {
      const normed = numbers(x.shape);
      for (let first = 0; first < x.data.length; first += D) {
        const row = x.data.subarray(first, first + D);
        const mean = row.reduce((total, value) => total + value, 0) / D;
        const variance = row.reduce((total, value) => total + (value - mean) ** 2, 0) / D;
        for (let d = 0; d < D; d++) {
          normed.data[first + d] = (row[d]! - mean) / Math.sqrt(variance + 1e-5) * weight.data[d]! + biases[l]!.data[d]!;
        }
      }
      return normed;
    });
  },
  plain(x, dtype, ...layers) {
    const mean = (of: Tensor): Tensor => apply("aten::mean.dim", of, [-1], true), biases = biasesOf<Tensor>(layers);
    return weightsOf<Tensor>(layers).map((weight, l) => {
      const centred = apply("aten::sub.Tensor", x, mean(x));
      const variance = mean(apply("aten::mul.Tensor", centred, centred));
      const z = apply("aten::mul.Tensor", centred, apply("aten::rsqrt", apply("aten::add.Scalar", variance, 1e-5)));
      const normed = apply("aten::add.Tensor", apply("aten::mul.Tensor", z, weight), biases[l]!);
      return apply("aten::to.dtype", normed, dtype);
    });
  },
  misuses: [
    {
      what: "a scalar", code: "SHAPE",
      arguments: (_, ...rest) => [numbers([]), ...rest],
      message: /^shared_norm: x must have a last axis of at least one number, got \[\]$/,
    },
    {
      what: "rows of nothing", code: "SHAPE",
      arguments: (_, ...rest) => [numbers([3, 0]), ...rest],
      message: /^shared_norm: x must have a last axis of at least one number, got \[3, 0\]$/,
    },
    {
      what: "whole numbers", code: "DTYPE",
      arguments: (_, ...rest) => [numbers([3, 5, 7], () => 1, "int64"), ...rest],
      message: /^shared_norm: x must be float32 or float64, got Long$/,
    },
    {
      what: "rows of whole numbers", code: "DTYPE",
      arguments: (...args) => args.with(1, 4),
      message: /^shared_norm: dtype must be x's dtype Double, or bfloat16 or float16 beside a float32 x, got Long$/,
    },
    {
      what: "narrow rows of a float64 x", code: "DTYPE",
      arguments: (...args) => args.with(1, SCALAR_TYPE.bfloat16),
      message: /^shared_norm: dtype must be x's dtype Double, or bfloat16 or float16 beside a float32 x, got BFloat16$/,
    },
    {
      what: "no layers", code: "CONFIG",
      arguments: (x, dtype) => [x, dtype],
      message: /^shared_norm: needs as many biases as weights, and one at least; got 0 and 0$/,
    },
    {
      what: "a layer without weight", code: "CONFIG",
      arguments: (...args) => args.with(6, null),
      message: /^shared_norm: needs as many biases as weights, and one at least; got 1 and 2$/,
    },
    {
      what: "a weight of another width", code: "SHAPE",
      arguments: (...args) => args.with(6, numbers([6])),
      message: /^shared_norm: weights must have shape \(7\), got \[6\]$/,
    },
    {
      what: "a bias of another width", code: "SHAPE",
      arguments: (...args) => args.with(3, numbers([1])),
      message: /^shared_norm: biases must have shape \(7\), got \[1\]$/,
    },
    {
      what: "a weight of another dtype", code: "DTYPE",
      arguments: (...args) => args.with(2, numbers([7], () => 1, "int64")),
      message: /^shared_norm: weights must have x's dtype Double, got Long$/,
    },
    {
      what: "a bias of another dtype", code: "DTYPE",
      arguments: (...args) => args.with(7, numbers([7], () => 1, "int64")),
      message: /^shared_norm: biases must have x's dtype Double, got Long$/,
    },
    {
      what: "a sink for one layer of two", code: "CONFIG",
      arguments: (...args) => args.with(4, numbers([7])).with(5, numbers([7])),
      message: /^shared_norm: sinks must be one a weight and one a bias, or none; got 1 and 1$/,
    },
    {
      what: "sinks of the weights alone", code: "CONFIG",
      arguments: (...args) => args.with(4, numbers([7])).with(8, numbers([7])),
      message: /^shared_norm: sinks must be one a weight and one a bias, or none; got 2 and 0$/,
    },
    {
      what: "sinks of the biases alone", code: "CONFIG",
      arguments: (...args) => args.with(5, numbers([7])).with(9, numbers([7])),
      message: /^shared_norm: sinks must be one a weight and one a bias, or none; got 0 and 2$/,
    },
    {
      what: "a weight's sink of another shape", code: "SHAPE",
      arguments: (...args) => withSinks(args, numbers([2, 7]), numbers([7])),
      message: /^shared_norm: weight_sinks must have the shape of weights \[7\], got \[2, 7\]$/,
    },
    {
      what: "a bias's sink of another shape", code: "SHAPE",
      arguments: (...args) => withSinks(args, numbers([7]), numbers([6])),
      message: /^shared_norm: bias_sinks must have the shape of biases \[7\], got \[6\]$/,
    },
    {
      what: "a weight's sink of another dtype", code: "DTYPE",
      arguments: (...args) => withSinks(args, numbers([7], () => 0, "int64"), numbers([7])),
      message: /^shared_norm: weight_sinks must be Double, got Long$/,
    },
    {
      what: "a bias's sink of another dtype", code: "DTYPE",
      arguments: (...args) => withSinks(args, numbers([7]), numbers([7], () => 0, "int32")),
      message: /^shared_norm: bias_sinks must be Double, got Int$/,
    },
  ],
  cost({ rows, D, L }, size) {
    const n = count(rows) * D;
    return { bytes: size * ((1 + L) * n + 2 * D * L), flops: (6 + 2 * L) * n };
  },
};

/** The arguments of two layers with good sinks, but for those of the second. */
function withSinks(args: Arguments, weightSink: Numbers, biasSink: Numbers): readonly Argument[] {
  return args.with(4, numbers([7])).with(5, numbers([7])).with(8, weightSink).with(9, biasSink);
}

opcheck(sharedNorm, () => {
  const call = operator(sharedNorm);

  const drawn = (shape: Case, seed: number): { args: Arguments; cotangents: Numbers[] } => {
    const draw = new Draw(seed), args = sharedNorm.inputs(shape, draw);
    return { args, cotangents: sharedNorm.reference(...args).map((y) => draw.numbers(y.shape)) };
  };

  /** The operator with these sinks, of each layer those of weight and bias. */
  const sunk = (sinks: readonly Tensor[]): Call => (x, dtype, ...layers) =>
    call(x, dtype, ...layers.map((tensor, i) => i % 4 < 2 ? tensor : sinks[2 * Math.floor(i / 4) + i % 4 - 2]!));

  const sinksFor = (held: readonly Numbers[], dtype: FloatingDType): Tensor[] => held.map((value) => upload(value, dtype));

  for (const shape of sharedNorm.cases.filter(({ D, L }) => D < 10 && L > 1)) {
    it(`adds the gradients to their sinks, to what those hold, and sends none of them back: ${shape.what}`, async () => {
      const { args, cotangents } = drawn(shape, 3), sent = await gradients(call, args, cotangents);
      const held = Array.from({ length: 2 * shape.L }, (_, s) => numbers([shape.D], (i) => (i + s) % 5)), sinks = sinksFor(held, "float64");
      for (const times of [1, 2]) {
        const [x, ...rest] = await gradients(sunk(sinks), args, cotangents);
        expect(x!.data).to.deep.equal(sent[0]!.data);
        expect(rest.length).to.equal(sinks.length);
        for (const [s, sink] of sinks.entries()) {
          const grad = sent[1 + s]!.data, expected = held[s]!.data.map((value, i) => value + times * grad[i]!);
          expect(rest[s]!.data.every((value) => value === 0)).to.be.true;
          expect(errorOf((await download(sink)).data, expected), `sink ${s}`).to.be.below(1e-14);
        }
      }
      for (const sink of sinks) sink.dispose();
    });
  }

  it("sends back what comes through the rows of one layer alone", async () => {
    const { args, cotangents } = drawn(sharedNorm.cases[0]!, 4);
    for (const i of [0, 1]) {
      const alone = await gradients(call, args, cotangents.map((value, j) => j === i ? value : null));
      const among = await gradients(call, args, cotangents.map((value, j) => j === i ? value : numbers(value.shape)));
      expect(alone.map(({ data }) => data)).to.deep.equal(among.map(({ data }) => data));
      expect(alone[0]!.data.some((value) => value !== 0)).to.be.true;
    }
  });

  it("gives a float32 x's rows in bfloat16, as near as that is to those in float32", async () => {
    const { args } = drawn(sharedNorm.cases[7]!, 5), wide = await run(call, args, { dtype: "float32" });
    const narrow = await run(call, args.with(1, SCALAR_TYPE.bfloat16), { dtype: "float32" });
    for (const [l, { dtype, data }] of narrow.entries()) {
      expect(dtype).to.equal("bfloat16");
      expect(data).to.deep.equal(rounded({ ...wide[l]!, kind: "floating" }, "bfloat16").data);
    }
  });

  it("adds the float32 gradients of bfloat16 rows to float32 sinks", async () => {
    const { args, cotangents } = drawn(sharedNorm.cases[7]!, 6);
    const sent: Found[] = await gradients(call, args, cotangents, { dtype: "bfloat16" });
    const held = sent.slice(1).map(({ shape }) => numbers(shape)), sinks = sinksFor(held, "float32");
    await gradients(sunk(sinks), args, cotangents, { dtype: "bfloat16" });
    for (const [s, sink] of sinks.entries()) {
      const { dtype, data } = await download(sink);
      expect(dtype).to.equal("float32");
      expect(sent[1 + s]!.dtype).to.equal("float32");
      expect(data).to.deep.equal(sent[1 + s]!.data);
      sink.dispose();
    }
  });

  it("refuses a sink with gaps between its numbers", async () => {
    const { args, cotangents } = drawn(sharedNorm.cases[1]!, 7);
    const sinks = [upload(numbers([7]), "float64", "strided"), upload(numbers([7]), "float64")];
    const message = await gradients(sunk(sinks), args, cotangents).then(() => "", (error: unknown) => (error as Error).message);
    expect(message).to.equal("shared_norm: weight_sinks must be contiguous");
    for (const sink of sinks) sink.dispose();
  });
});
