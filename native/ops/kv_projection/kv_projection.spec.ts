import { expect } from "chai";
import { applyOperator, callOperator, callListOperator, type Tensor } from "../../../lib/index.ts";
import { biasesOf, type Layers, listsOf, weightsOf } from "../../../test/support/layer-lists.ts";
import { opcheck, operator } from "../../../test/support/opcheck.ts";
import { errorOf, meanErrorOf } from "../../../test/support/opcheck-compare.ts";
import {
  download,
  Draw,
  EPSILON,
  type FloatingDType,
  type Found,
  type Numbers,
  numbers,
  rounded,
  upload,
} from "../../../test/support/opcheck-numbers.ts";
import { gradients, roundedAll, run } from "../../../test/support/opcheck-run.ts";
import type { Argument, Call, OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";

interface Case extends SpecCase {
  readonly B: number;
  readonly N: number;
  readonly C: number;
  readonly H: number;
  readonly E: number;
  readonly L: number;
}

type Arguments = [context: Numbers, heads: number, ...layers: Layers];

export const keysValues: OperatorSpec<Case, Arguments> = {
  name: "memformer::kv_projection",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], B: 3, N: 5, C: 7, H: 3, E: 2, L: 2 },
    { what: "of one layer", B: 3, N: 5, C: 7, H: 2, E: 3, L: 1 },
    { what: "of one number", B: 1, N: 1, C: 1, H: 1, E: 1, L: 1 },
    { what: "of one number, for three layers", B: 1, N: 1, C: 1, H: 1, E: 1, L: 3 },
    { what: "of five layers", B: 2, N: 3, C: 6, H: 2, E: 4, L: 5 },
    { what: "larger", B: 2, N: 33, C: 65, H: 4, E: 16, L: 2 },
    { what: "without rows", tags: ["sanitize"], B: 0, N: 3, C: 4, H: 2, E: 3, L: 2 },
    { what: "of an empty context", B: 2, N: 0, C: 4, H: 2, E: 3, L: 2 },
  ],
  inputs({ B, N, C, H, E, L }, draw) {
    const layer = (): Layers => [draw.numbers([2 * H * E, C]), draw.numbers([2 * H * E]), null, null];
    return [draw.numbers([B, N, C]), H, ...Array.from({ length: L }, layer).flat()];
  },
  call(context, heads, ...layers) {
    const lists = listsOf(layers);
    return callListOperator(this.name, 2 * lists[0].length, context, ...lists, heads);
  },
  reference(context, H, ...layers) {
    const [B, N, C] = context.shape as [number, number, number],
      biases = biasesOf(layers);
    return weightsOf(layers).flatMap((weight, l) =>
      [0, 1].map((half) => {
        const D = weight.shape[0]! / 2,
          E = D / H,
          y = numbers([B, H, N, E]);
        for (let b = 0; b < B; b++)
          for (let n = 0; n < N; n++)
            for (let d = 0; d < D; d++) {
              const row = half * D + d;
              let sum = biases[l]!.data[row]!;
              for (let c = 0; c < C; c++) sum += context.data[(b * N + n) * C + c]! * weight.data[row * C + c]!;
              y.data[((b * H + Math.floor(d / E)) * N + n) * E + (d % E)] = sum;
            }
        return y;
      }),
    );
  },
  plain(context, heads, ...layers) {
    const biases = biasesOf<Tensor>(layers);
    return weightsOf<Tensor>(layers).flatMap((weight, l) => {
      const rows = applyOperator(
        "aten::add.Tensor",
        applyOperator("aten::matmul", context, applyOperator("aten::t", weight)),
        biases[l]!,
      );
      const split = applyOperator("aten::unflatten.int", rows, -1, [2, heads, -1]); // (B, N, 2, H, E)
      return [0, 1].map((half) =>
        applyOperator("aten::transpose.int", applyOperator("aten::select.int", split, 2, half), 1, 2),
      );
    });
  },
  misuses: [
    {
      what: "a context of two axes",
      code: "SHAPE",
      arguments: (_, ...rest) => [numbers([5, 7]), ...rest],
      message: /^kv_projection: context must have shape \(any, any, any\), got \[5, 7\]$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (_, ...rest) => [numbers([3, 5, 7], () => 1, "int64"), ...rest],
      message: /^kv_projection: context must be float32, float64 or bfloat16, got Long$/,
    },
    {
      what: "no layers",
      code: "CONFIG",
      arguments: (context, heads) => [context, heads],
      message: /^kv_projection: needs as many biases as weights, and one at least; got 0 and 0$/,
    },
    {
      what: "a layer without bias",
      code: "CONFIG",
      arguments: (...args) => args.with(7, null),
      message: /^kv_projection: needs as many biases as weights, and one at least; got 2 and 1$/,
    },
    {
      what: "a scalar for a weight",
      code: "SHAPE",
      arguments: (...args) => args.with(2, numbers([])),
      message: /^kv_projection: weights must have shape \(any, 7\), got \[\]$/,
    },
    {
      what: "weights of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(2, numbers([12, 6])),
      message: /^kv_projection: weights must have shape \(any, 7\), got \[12, 6\]$/,
    },
    {
      what: "weights of unequal rows",
      code: "SHAPE",
      arguments: (...args) => args.with(6, numbers([6, 7])),
      message: /^kv_projection: weights must have shape \(12, 7\), got \[6, 7\]$/,
    },
    {
      what: "a bias of other rows",
      code: "SHAPE",
      arguments: (...args) => args.with(7, numbers([6])),
      message: /^kv_projection: biases must have shape \(12\), got \[6\]$/,
    },
    {
      what: "a weight of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          6,
          numbers([12, 7], () => 1, "int64"),
        ),
      message: /^kv_projection: weights must have context's dtype Double, got Long$/,
    },
    {
      what: "a bias of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          3,
          numbers([12], () => 1, "int64"),
        ),
      message: /^kv_projection: biases must have context's dtype Double, got Long$/,
    },
    {
      what: "heads that the rows do not divide into",
      code: "CONFIG",
      arguments: (...args) => args.with(1, 4),
      message:
        /^kv_projection: the rows of a weight must be 2 x heads x a whole number of at least 1, got 12 with 4 heads$/,
    },
    {
      what: "no heads",
      code: "CONFIG",
      arguments: (...args) => args.with(1, 0),
      message:
        /^kv_projection: the rows of a weight must be 2 x heads x a whole number of at least 1, got 12 with 0 heads$/,
    },
    {
      what: "weights without rows",
      code: "CONFIG",
      arguments: (context, heads) => [context, heads, numbers([0, 7]), numbers([0])],
      message:
        /^kv_projection: the rows of a weight must be 2 x heads x a whole number of at least 1, got 0 with 3 heads$/,
    },
    {
      what: "a sink for one layer of two",
      code: "CONFIG",
      arguments: (...args) => args.with(4, numbers([12, 7])).with(5, numbers([12])),
      message: /^kv_projection: sinks must be one a weight and one a bias, or none; got 1 and 1$/,
    },
    {
      what: "sinks of the weights alone",
      code: "CONFIG",
      arguments: (...args) => args.with(4, numbers([12, 7])).with(8, numbers([12, 7])),
      message: /^kv_projection: sinks must be one a weight and one a bias, or none; got 2 and 0$/,
    },
    {
      what: "sinks of the biases alone",
      code: "CONFIG",
      arguments: (...args) => args.with(5, numbers([12])).with(9, numbers([12])),
      message: /^kv_projection: sinks must be one a weight and one a bias, or none; got 0 and 2$/,
    },
    {
      what: "a weight's sink of another shape",
      code: "SHAPE",
      arguments: (...args) => withSinks(args, numbers([7, 12]), numbers([12])),
      message: /^kv_projection: weight_sinks must have the shape of weights \[12, 7\], got \[7, 12\]$/,
    },
    {
      what: "a bias's sink of another shape",
      code: "SHAPE",
      arguments: (...args) => withSinks(args, numbers([12, 7]), numbers([1])),
      message: /^kv_projection: bias_sinks must have the shape of biases \[12\], got \[1\]$/,
    },
    {
      what: "a weight's sink of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        withSinks(
          args,
          numbers([12, 7], () => 0, "int64"),
          numbers([12]),
        ),
      message: /^kv_projection: weight_sinks must be Double, got Long$/,
    },
    {
      what: "a bias's sink of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        withSinks(
          args,
          numbers([12, 7]),
          numbers([12], () => 0, "int32"),
        ),
      message: /^kv_projection: bias_sinks must be Double, got Int$/,
    },
  ],
};

/** The arguments of two layers with good sinks, but for those of the second. */
function withSinks(args: Arguments, weightSink: Numbers, biasSink: Numbers): readonly Argument[] {
  return args
    .with(4, numbers([12, 7]))
    .with(5, numbers([12]))
    .with(8, weightSink)
    .with(9, biasSink);
}

opcheck(keysValues, () => {
  const call = operator(keysValues);
  const [shape] = keysValues.cases as [Case],
    rows = 2 * shape.H * shape.E;

  /** Parts of one buffer (L rows, ...) that lie side by side, one a layer. */
  const parts = (buffer: Tensor): Tensor[] =>
    Array.from({ length: shape.L }, (_, l) => applyOperator("aten::slice.Tensor", buffer, 0, l * rows, (l + 1) * rows));
  const sideBySide = (tensors: readonly Tensor[]): Tensor[] => parts(applyOperator("aten::cat", tensors));

  /** The operator with these in the places of every layer's weight, bias and sinks; undefined: as they are. */
  const placed =
    (replace: (layers: Layers<Tensor>) => (readonly Tensor[] | undefined)[]): Call =>
    (context, heads, ...given) => {
      const layers = given as Layers<Tensor>,
        lists = replace(layers);
      return call(context, heads, ...layers.map((tensor, i) => lists[i % 4]?.[Math.floor(i / 4)] ?? tensor));
    };
  const joined = (sinks: readonly Tensor[][] = []): Call =>
    placed((layers) => [sideBySide(weightsOf(layers)), sideBySide(biasesOf(layers)), ...sinks]);

  const drawn = (seed: number): { args: Arguments; cotangents: Numbers[] } => {
    const draw = new Draw(seed),
      args = keysValues.inputs(shape, draw);
    return { args, cotangents: keysValues.reference(...args).map((y) => draw.numbers(y.shape)) };
  };

  /** Layer by layer below each other: what the sinks of all weights, or of all biases, gather. */
  const gathered = (sent: readonly Found[], which: 0 | 1): Float64Array =>
    Float64Array.from(
      sent
        .slice(1)
        .filter((_, i) => i % 2 === which)
        .flatMap(({ data }) => [...data]),
    );

  function expectClose(found: readonly Found[], expected: readonly Found[]): void {
    expect(found.length).to.equal(expected.length);
    for (const [i, { data }] of found.entries()) expect(errorOf(data, expected[i]!.data), `${i}`).to.be.below(1e-14);
  }

  for (const layout of ["apart", "side by side"] as const) {
    it(`norms the keys of each head where asked, of weights that lie ${layout}`, async () => {
      const { args, cotangents } = drawn(6);
      const norms =
        (of: Call): Call =>
        (...given) =>
          of(...given).map((part, i) => {
            if (i % 2 === 1) return part;
            const { E } = shape,
              tokens = applyOperator("aten::transpose.int", part, 1, 2);
            const flat = applyOperator("aten::flatten.using_ints", tokens, 2);
            const normed = callOperator("memformer::head_norm", flat, null, E, shape.H, shape.H, 1)[0]!;
            return applyOperator(
              "aten::transpose.int",
              applyOperator("aten::unflatten.int", normed, 2, [shape.H, E]),
              1,
              2,
            );
          });
      const asked: Call = (context, heads, ...given) => {
        const layers = given as Layers<Tensor>;
        const [weights, biases, ...sinks] = listsOf(layers);
        const lists = layout === "apart" ? [weights, biases] : [sideBySide(weights), sideBySide(biases)];
        return callListOperator("memformer::kv_projection", 2 * shape.L, context, ...lists, ...sinks, heads, true);
      };
      expectClose(await run(asked, args), await run(norms(call), args));
      expectClose(await gradients(asked, args, cotangents), await gradients(norms(call), args, cotangents));
    });
  }

  it("gives the same of weights and biases that lie side by side", async () => {
    const { args, cotangents } = drawn(3);
    expectClose(await run(joined(), args), await run(call, args));
    expectClose(await gradients(joined(), args, cotangents), await gradients(call, args, cotangents));
  });

  it("gives the same of weights that lie side by side and biases that do not", async () => {
    const { args, cotangents } = drawn(4),
      weights = placed((layers) => [sideBySide(weightsOf(layers))]);
    expectClose(await run(weights, args), await run(call, args));
    expectClose(await gradients(weights, args, cotangents), await gradients(call, args, cotangents));
  });

  it("makes one product of weights and biases that lie side by side", async () => {
    const { args } = drawn(5),
      { B, N, L } = shape;
    const whole =
      (of: Call): Call =>
      (...given) => [applyOperator("aten::as_strided", of(...given)[0]!, [B * N, L * rows], [L * rows, 1], 0)];
    const [{ data }] = (await run(whole(joined()), args)) as [Found],
      results = await run(call, args);
    for (const [i, result] of results.entries()) {
      expect(data[(i * rows) / 2], `the first number of result ${i}`).to.be.closeTo(result.data[0]!, 1e-12);
    }
    const apart = await run(whole(call), args).then(
      () => "",
      (error: unknown) => (error as Error).message,
    );
    expect(apart).to.match(/out of bounds for storage/);
  });

  for (const [i, what] of ["a first key", "a first value", "a last key", "a last value"].entries()) {
    it(`returns the gradient that comes through ${what} alone`, async () => {
      const { args, cotangents } = drawn(6);
      const alone = await gradients(
        call,
        args,
        cotangents.map((value, j) => (j === i ? value : null)),
      );
      const among = await gradients(
        call,
        args,
        cotangents.map((value, j) => (j === i ? value : numbers(value.shape))),
      );
      expect(alone.map(({ data }) => data)).to.deep.equal(among.map(({ data }) => data));
      expect(alone[0]!.data.some((value) => value !== 0)).to.be.true;
    });
  }

  /** Sinks that hold something, of all weights and of all biases, and the same in pieces for the layers. */
  function sinksOf(dtype: FloatingDType): { held: Numbers[]; buffers: Tensor[]; pieces: Tensor[][] } {
    const held = [numbers([shape.L * rows, shape.C], (i) => i % 5), numbers([shape.L * rows], (i) => 3 - i)];
    const buffers = held.map((value) => upload(value, dtype));
    return { held, buffers, pieces: buffers.map(parts) };
  }

  const ways: Record<string, (sinks: Tensor[][]) => Call> = {
    apart: (sinks) => placed(() => [undefined, undefined, ...sinks]),
    "side by side": (sinks) => joined(sinks),
  };
  for (const [where, sunk] of Object.entries(ways)) {
    it(`adds the gradients of weights ${where} to their sinks, to what those hold, and sends none of them back`, async () => {
      const { args, cotangents } = drawn(7),
        sent = await gradients(call, args, cotangents);
      const { held, buffers, pieces } = sinksOf("float64");
      for (const times of [1, 2]) {
        const [context, ...rest] = await gradients(sunk(pieces), args, cotangents);
        expect(errorOf(context!.data, sent[0]!.data)).to.be.below(1e-14);
        expect(rest.length).to.equal(2 * shape.L);
        for (const { data } of rest) expect(data.every((value) => value === 0)).to.be.true;
        for (const which of [0, 1] as const) {
          const grad = gathered(sent, which),
            expected = held[which]!.data.map((value, i) => value + times * grad[i]!);
          expect(errorOf((await download(buffers[which]!)).data, expected)).to.be.below(1e-14);
        }
      }
      for (const tensor of [...buffers, ...pieces.flat()]) tensor.dispose();
    });

    it(`adds to float32 sinks of bfloat16 weights ${where} without rounding the gradients to bfloat16`, async () => {
      const { args: wide, cotangents: drawnWeights } = drawn(8),
        args = roundedAll(wide, "bfloat16");
      const cotangents = drawnWeights.map((value) => rounded(value, "bfloat16"));
      const exact = await gradients(call, args, cotangents),
        { held, buffers, pieces } = sinksOf("float32");
      await gradients(sunk(pieces), args, cotangents, { dtype: "bfloat16" });
      for (const which of [0, 1] as const) {
        const { dtype, data } = await download(buffers[which]!),
          grad = data.map((value, i) => value - held[which]!.data[i]!);
        expect(dtype).to.equal("float32");
        expect(meanErrorOf(grad, gathered(exact, which))).to.be.below(16 * EPSILON.float32);
      }
      for (const tensor of [...buffers, ...pieces.flat()]) tensor.dispose();
    });
  }

  /** Keys and values of a layer as one (B, N, 2, H, E): their gradients come as the parts of such a one. */
  const stacked =
    (of: Call): Call =>
    (...given) => {
      const results = of(...given),
        byToken = results.map((y) => applyOperator("aten::transpose.int", y, 1, 2));
      return Array.from({ length: shape.L }, (_, l) =>
        applyOperator("aten::stack", byToken.slice(2 * l, 2 * l + 2), 2),
      );
    };
  const stackedNumbers = (cotangents: readonly Numbers[]): Numbers[] => {
    const { B, N, H, E } = shape;
    return Array.from({ length: shape.L }, (_, l) =>
      numbers([B, N, 2, H, E], (at) => {
        const e = at % E,
          h = Math.floor(at / E) % H,
          half = Math.floor(at / E / H) % 2,
          row = Math.floor(at / E / H / 2);
        return cotangents[2 * l + half]!.data[((Math.floor(row / N) * H + h) * N + (row % N)) * E + e]!;
      }),
    );
  };

  it("returns the same gradient where those of keys and values are adjacent in memory", async () => {
    const { args, cotangents } = drawn(10);
    expectClose(
      await gradients(stacked(call), args, stackedNumbers(cotangents)),
      await gradients(call, args, cotangents),
    );
  });

  for (const [where, sunk] of Object.entries(ways)) {
    it(`adds the same to the sinks of weights ${where} for gradients of keys and values that lie side by side`, async () => {
      const { args, cotangents } = drawn(11),
        apart = sinksOf("float64"),
        beside = sinksOf("float64");
      const expected = await gradients(sunk(apart.pieces), args, cotangents);
      expectClose(await gradients(stacked(sunk(beside.pieces)), args, stackedNumbers(cotangents)), expected);
      expectClose(await Promise.all(beside.buffers.map(download)), await Promise.all(apart.buffers.map(download)));
      for (const { buffers, pieces } of [apart, beside])
        for (const tensor of [...buffers, ...pieces.flat()]) tensor.dispose();
    });
  }

  it("refuses a sink with gaps between its numbers", async () => {
    const { args, cotangents } = drawn(9),
      { buffers, pieces } = sinksOf("float64");
    const gaps = upload(numbers([rows]), "float64", "strided");
    const spoiled = placed(() => [undefined, undefined, pieces[0]!, [pieces[1]![0]!, gaps]]);
    const message = await gradients(spoiled, args, cotangents).then(
      () => "",
      (error: unknown) => (error as Error).message,
    );
    expect(message).to.equal("kv_projection: bias_sinks must be contiguous");
    for (const tensor of [...buffers, ...pieces.flat(), gaps]) tensor.dispose();
  });
});
