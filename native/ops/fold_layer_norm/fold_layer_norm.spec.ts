import { expect } from "chai";
import { applyOperator, callOperator, type Tensor } from "../../../lib/index.ts";
import { every, type Layers, listsOf } from "../../../test/support/layer-lists.ts";
import { opcheck, operator } from "../../../test/support/opcheck.ts";
import { errorOf } from "../../../test/support/opcheck-compare.ts";
import {
  download,
  Draw,
  type FloatingDType,
  type Numbers,
  numbers,
  SCALAR_TYPE,
  upload,
} from "../../../test/support/opcheck-numbers.ts";
import { gradients } from "../../../test/support/opcheck-run.ts";
import { type Call, type OperatorSpec, TESTED_DTYPE, type SpecCase } from "../../../test/support/opcheck-spec.ts";

interface Case extends SpecCase {
  readonly L: number;
  readonly R: number;
  readonly D: number;
  /** Whether the layers have biases. Default true. */
  readonly biased?: boolean;
}

/** Of each layer its weight, its bias, and the weight and bias of its norm. */
type Arguments = [dtype: typeof TESTED_DTYPE | number, ...layers: Layers];

const name = "memformer::fold_layer_norm";

/** The operator with these sinks: weights, biases, norms' weights, norms' biases, each of all layers. */
const call = (sinks: readonly Tensor[], dtype: number, layers: Layers<Tensor>): Tensor[] =>
  callOperator(name, ...listsOf(layers), sinks, dtype);

export const foldNorm: OperatorSpec<Case, Arguments> = {
  name,
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], L: 2, R: 5, D: 7 },
    { what: "of one number", L: 1, R: 1, D: 1 },
    { what: "without biases", L: 2, R: 5, D: 7, biased: false },
    { what: "of nine layers", L: 9, R: 3, D: 5 },
    { what: "of many rows", tags: ["sanitize"], L: 2, R: 130, D: 33 },
    { what: "larger", L: 3, R: 64, D: 128 },
  ],
  inputs({ L, R, D, biased = true }, draw) {
    const master = (shape: number[]): Numbers => draw.numbers(shape, 1, "master");
    return [
      TESTED_DTYPE,
      ...Array.from({ length: L }, () => [
        master([R, D]),
        biased ? master([R]) : null,
        master([D]),
        master([D]),
      ]).flat(),
    ];
  },
  // The sinks of the folded tensors have no gradient.
  call: (dtype, ...layers) => call([], dtype, layers).slice(0, 2),
  reference(_, ...layers) {
    const weights = every(layers, 0),
      biases = every(layers, 1),
      norms = every(layers, 2),
      normBiases = every(layers, 3);
    const L = weights.length,
      [R, D] = weights[0]!.shape as [number, number];
    const weight = numbers(
      [L * R, D],
      (i) => weights[Math.floor(i / D / R)]!.data[i % (R * D)]! * norms[Math.floor(i / D / R)]!.data[i % D]!,
    );
    const bias = numbers([L * R], (i) => {
      const l = Math.floor(i / R),
        row = i % R;
      return normBiases[l]!.data.reduce(
        (sum, value, d) => sum + weights[l]!.data[row * D + d]! * value,
        biases[l]?.data[row] ?? 0,
      );
    });
    return [weight, bias];
  },
  plain(dtype, ...layers) {
    const biases = every<Tensor>(layers, 1),
      norms = every<Tensor>(layers, 2),
      normBiases = every<Tensor>(layers, 3);
    const weights = every<Tensor>(layers, 0),
      narrow = (tensors: Tensor[]): Tensor =>
        applyOperator("aten::to.dtype", applyOperator("aten::cat", tensors), dtype);
    return [
      narrow(weights.map((weight, l) => applyOperator("aten::mul.Tensor", weight, norms[l]!))),
      narrow(
        weights.map((weight, l) => {
          const moved = applyOperator("aten::mv", weight, normBiases[l]!);
          return biases.length === 0 ? moved : applyOperator("aten::add.Tensor", moved, biases[l]!);
        }),
      ),
    ];
  },
  misuses: [
    {
      what: "no layers",
      code: "CONFIG",
      arguments: (dtype) => [dtype],
      message:
        /^fold_layer_norm: needs as many weights and biases of norms as weights, and one at least; got 0, 0 and 0$/,
    },
    {
      what: "a layer without a norm's bias",
      code: "CONFIG",
      arguments: (...args) => args.with(8, null),
      message:
        /^fold_layer_norm: needs as many weights and biases of norms as weights, and one at least; got 2, 2 and 1$/,
    },
    {
      what: "a bias for one layer of two",
      code: "CONFIG",
      arguments: (...args) => args.with(6, null),
      message: /^fold_layer_norm: needs a bias for each of 2 weights, or none, got 1$/,
    },
    {
      what: "weights of whole numbers",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          1,
          numbers([5, 7], () => 1, "int64"),
        ),
      message: /^fold_layer_norm: weights must be float32 or float64, got Long$/,
    },
    {
      what: "a weight of another shape",
      code: "SHAPE",
      arguments: (...args) => args.with(5, numbers([4, 7])),
      message: /^fold_layer_norm: weights must have shape \(5, 7\), got \[4, 7\]$/,
    },
    {
      what: "a bias of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(6, numbers([7])),
      message: /^fold_layer_norm: biases must have shape \(5\), got \[7\]$/,
    },
    {
      what: "a norm of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(7, numbers([5])),
      message: /^fold_layer_norm: norm_weights must have shape \(7\), got \[5\]$/,
    },
    {
      what: "a norm's bias of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(4, numbers([5])),
      message: /^fold_layer_norm: norm_biases must have shape \(7\), got \[5\]$/,
    },
    {
      what: "a norm's weight of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          3,
          numbers([7], () => 1, "int64"),
        ),
      message: /^fold_layer_norm: norm_weights must have the first weight's dtype Double, got Long$/,
    },
    {
      what: "narrow weights of float64 masters",
      code: "DTYPE",
      arguments: (...args) => args.with(0, SCALAR_TYPE.bfloat16),
      message:
        /^fold_layer_norm: dtype must be the weights' dtype Double, or bfloat16 or float16 beside float32, got BFloat16$/,
    },
  ],
};

opcheck(foldNorm, () => {
  const plainCall = operator(foldNorm);

  /**
   * As the layers behind do: the gradients go into the folded tensors' sinks, and nothing comes through the tensors
   * themselves.
   */
  const throughSinks =
    (sinks: readonly Tensor[], grads: readonly Tensor[]): Call =>
    (dtype, ...layers) => {
      const [weight, bias, weightSink, biasSink] = call(sinks, dtype as number, layers as Layers<Tensor>);
      applyOperator("aten::add_.Tensor", weightSink!, grads[0]!);
      applyOperator("aten::add_.Tensor", biasSink!, grads[1]!);
      return [weight!, bias!];
    };

  for (const shape of foldNorm.cases) {
    for (const dtype of ["float64", "float32"] as const satisfies readonly FloatingDType[]) {
      it(`adds to sinks what comes into those of the folded tensors, in ${dtype}: ${shape.what}`, async () => {
        const draw = new Draw(3),
          args = foldNorm.inputs(shape, draw),
          cotangents = foldNorm.reference(...args).map((y) => draw.numbers(y.shape));
        const sent = await gradients(plainCall, args, cotangents, { dtype });
        const parameters = [1, 2, 3, 0].flatMap((rest) =>
          args.map((_, i) => i).filter((i) => i > 0 && i % 4 === rest && args[i] !== null),
        );
        const order = args.map((_, i) => i).filter((i) => i > 0 && args[i] !== null); // as `sent` has them
        const held = parameters.map((i) => numbers((args[i] as Numbers).shape, (at) => at % 5)),
          sinks = held.map((value) => upload(value, dtype));
        const grads = cotangents.map((value) => upload(value, dtype));
        const nothing = cotangents.map(({ shape: of }) => numbers(of));
        const rest = await gradients(throughSinks(sinks, grads), args, nothing, { dtype });
        expect(rest.every(({ data }) => data.every((value) => value === 0))).to.be.true;
        for (const [n, sink] of sinks.entries()) {
          const grad = sent[order.indexOf(parameters[n]!)]!.data,
            expected = held[n]!.data.map((value, at) => value + grad[at]!);
          expect(errorOf((await download(sink)).data, expected), `sink ${n}`).to.be.below(
            dtype === "float64" ? 1e-13 : 1e-5,
          );
        }
        for (const tensor of [...sinks, ...grads]) tensor.dispose();
      });
    }
  }

  it("refuses sinks for some of its parameters, of other shapes, of another dtype, or with gaps", async () => {
    const args = foldNorm.inputs({ what: "", L: 1, R: 2, D: 3 }, new Draw(1));
    const said = async (...sinks: Tensor[]): Promise<string> => {
      const found = await gradients(
        (dtype, ...layers) => call(sinks, dtype as number, layers as Layers<Tensor>).slice(0, 2),
        args,
        [numbers([2, 3]), numbers([2])],
      ).then(
        () => "",
        (error: unknown) => (error as Error).message,
      );
      for (const sink of sinks) sink.dispose();
      return found;
    };
    const sink = (shape: number[], dtype: FloatingDType = "float64"): Tensor => upload(numbers(shape), dtype);
    expect(await said(sink([2, 3]))).to.equal("fold_layer_norm: needs a sink for each of 4 parameters, or none, got 1");
    expect(await said(sink([2, 3]), sink([3]), sink([3]), sink([3]))).to.equal(
      "fold_layer_norm: sinks must have the shapes of their parameters; number 1 has [3], needs [2]",
    );
    expect(await said(sink([2, 3]), sink([2], "float32"), sink([3]), sink([3]))).to.equal(
      "fold_layer_norm: sinks must be Double, got Float",
    );
    expect(await said(upload(numbers([2, 3]), "float64", "strided"), sink([2]), sink([3]), sink([3]))).to.equal(
      "fold_layer_norm: sinks must be contiguous",
    );
  });
});
