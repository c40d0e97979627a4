import { expect } from "chai";
import { applyOperator, memoryUsage, callOperator, resetPeakMemory, type Tensor } from "../../../lib/index.ts";
import { opcheck, operator } from "../../../test/support/opcheck.ts";
import { errorOf } from "../../../test/support/opcheck-compare.ts";
import { Draw, type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import { gradients, run } from "../../../test/support/opcheck-run.ts";
import { expectSinks } from "../../../test/support/opcheck-sink.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";
import { memoryAtRest } from "../../../test/support/memory-at-rest.ts";

interface Case extends SpecCase {
  readonly N: number;
  readonly D: number;
  readonly V: number;
  readonly chunk: number;
  /** Every how manieth row is not scored. Default: none. */
  readonly unscored?: number;
  /** Default 1. */
  readonly groups?: number;
  /** Default false. */
  readonly biased?: boolean;
}

type Arguments = [
  hidden: Numbers,
  weight: Numbers,
  bias: Numbers | null,
  target: Numbers,
  lossWeights: Numbers,
  sink: Numbers | null,
  biasSink: Numbers | null,
  chunk: number,
];

const name = "memformer::linear_cross_entropy";

export const linearCrossEntropy: OperatorSpec<Case, Arguments> = {
  name,
  // The losses of the groups have no gradient, and a test of their own.
  call(...args) {
    const [total, , scored] = callOperator(name, ...args);
    return [total!, scored!];
  },
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], N: 7, D: 5, V: 11, chunk: 3, unscored: 3 },
    { what: "of one row", N: 1, D: 1, V: 2, chunk: 1 },
    { what: "of one token in the vocabulary", N: 3, D: 2, V: 1, chunk: 2 },
    { what: "a row at a time", N: 5, D: 4, V: 6, chunk: 1, unscored: 2 },
    { what: "all rows at a time", N: 5, D: 4, V: 6, chunk: 1000 },
    { what: "larger", N: 130, D: 33, V: 259, chunk: 64, unscored: 7 },
    { what: "in groups", tags: ["sanitize"], N: 12, D: 5, V: 9, chunk: 3, unscored: 4, groups: 3 },
    { what: "with a bias", N: 7, D: 5, V: 11, chunk: 3, unscored: 3, biased: true },
    {
      what: "in groups, with a bias",
      tags: ["sanitize"],
      N: 12,
      D: 5,
      V: 9,
      chunk: 3,
      unscored: 4,
      groups: 3,
      biased: true,
    },
    { what: "larger, with a bias", N: 130, D: 33, V: 259, chunk: 64, unscored: 7, biased: true },
    { what: "without scored rows, with a bias", N: 4, D: 3, V: 5, chunk: 2, unscored: 1, biased: true },
    { what: "without scored rows", N: 4, D: 3, V: 5, chunk: 2, unscored: 1 },
    { what: "without rows", tags: ["sanitize"], N: 0, D: 3, V: 5, chunk: 2 },
  ],
  inputs({ N, D, V, chunk, unscored = Infinity, groups = 1, biased = false }, draw) {
    // Any negative number says "not scored", not only -1.
    const target = numbers([N], (i) => (i % unscored === unscored - 1 ? -1 - draw.below(3) : draw.below(V)), "int64");
    return [
      draw.numbers([N, D]),
      draw.numbers([V, D]),
      biased ? draw.numbers([V]) : null,
      target,
      { ...draw.numbers([groups]), kind: "accumulated" },
      null,
      null,
      chunk,
    ];
  },
  reference(hidden, weight, bias, target, lossWeights) {
    const [N, D] = hidden.shape as [number, number],
      V = weight.shape[0]!,
      groups = lossWeights.shape[0]!;
    const loss = new Float64Array(groups),
      scored = new Float64Array(groups);
    for (let n = 0; n < N; n++) {
      if (target.data[n]! < 0) continue;
      const logits = bias === null ? new Float64Array(V) : bias.data.slice();
      for (let v = 0; v < V; v++) {
        for (let d = 0; d < D; d++) logits[v]! += hidden.data[n * D + d]! * weight.data[v * D + d]!;
      }
      const most = Math.max(...logits);
      const total = logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0);
      const group = Math.floor((n * groups) / N);
      loss[group]! += most + Math.log(total) - logits[target.data[n]!]!;
      scored[group]! += 1;
    }
    const total = loss.reduce((sum, of, i) => sum + (lossWeights.data[i]! * of) / Math.max(1, scored[i]!), 0);
    return [numbers([], () => total, "accumulated"), numbers([groups], (i) => scored[i]!, "int64")];
  },
  plain(hidden, weight, bias, target, lossWeights) {
    const product = applyOperator("aten::matmul", hidden, applyOperator("aten::t", weight));
    const logits = bias === null ? product : applyOperator("aten::add.Tensor", product, bias);
    const logP = applyOperator("aten::log_softmax.int", logits, 1, "float32");
    const losses = applyOperator("aten::nll_loss", logP, applyOperator("aten::clamp_min", target, -1), null, 0, -1);
    const each = applyOperator("aten::ones_like", target),
      of = (tensor: Tensor): Tensor => applyOperator("aten::sum", applyOperator("aten::ones_like", tensor, "int64"));
    const position = applyOperator("aten::sub.Tensor", applyOperator("aten::cumsum", each, 0), each);
    const group = applyOperator(
      "aten::floor_divide",
      applyOperator("aten::mul.Tensor", position, of(lossWeights)),
      of(target),
    );
    const summed = (rows: Tensor, like: Tensor): Tensor =>
      applyOperator("aten::index_add", applyOperator("aten::zeros_like", like), 0, group, rows);
    const scored = summed(
      applyOperator("aten::_to_copy", applyOperator("aten::ge.Scalar", target, 0), "int64"),
      applyOperator("aten::_to_copy", lossWeights, "int64"),
    );
    const means = applyOperator(
      "aten::div.Tensor",
      summed(losses, lossWeights),
      applyOperator("aten::clamp_min", scored, 1),
    );
    return [applyOperator("aten::sum", applyOperator("aten::mul.Tensor", means, lossWeights)), scored];
  },
  misuses: [
    {
      what: "a target outside the vocabulary",
      code: "TOKEN_RANGE",
      arguments: (h, w, b, _, ...rest) => [h, w, b, numbers([7], (i) => (i === 6 ? 11 : 0), "int64"), ...rest],
      message: /^linear_cross_entropy: target holds token 11, the vocabulary has 11$/,
    },
    {
      what: "chunks of nothing",
      code: "CONFIG",
      arguments: (...args) => args.with(7, 0),
      message: /^linear_cross_entropy: chunk must be at least 1, got 0$/,
    },
    {
      what: "groups that the rows do not fill",
      code: "CONFIG",
      arguments: (...args) => args.with(4, numbers([2])),
      message: /^linear_cross_entropy: the 7 rows must fall into equal groups, got 2 groups$/,
    },
    {
      what: "hidden states that are no (N, D)",
      code: "SHAPE",
      arguments: (...args) => args.with(0, numbers([7, 1, 5])),
      message: /^linear_cross_entropy: hidden must have shape \(any, any\), got \[7, 1, 5\]$/,
    },
    {
      what: "a weight of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(1, numbers([11, 4])),
      message: /^linear_cross_entropy: weight must have shape \(any, 5\), got \[11, 4\]$/,
    },
    {
      what: "targets of other rows",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          3,
          numbers([6], () => 0, "int64"),
        ),
      message: /^linear_cross_entropy: target must have shape \(7\), got \[6\]$/,
    },
    {
      what: "targets of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          3,
          numbers([7], () => 0, "int32"),
        ),
      message: /^linear_cross_entropy: target must be Long, got Int$/,
    },
    {
      what: "a weight of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          1,
          numbers([11, 5], () => 0, "int64"),
        ),
      message: /^linear_cross_entropy: weight must have hidden's dtype Double, got Long$/,
    },
    {
      what: "weights of losses that are no (G)",
      code: "SHAPE",
      arguments: (...args) => args.with(4, numbers([])),
      message: /^linear_cross_entropy: loss_weights must have shape \(any\), got \[\]$/,
    },
    {
      what: "weights of losses of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          4,
          numbers([1], () => 1, "int64"),
        ),
      message: /^linear_cross_entropy: loss_weights must be Double, got Long$/,
    },
    {
      what: "a sink of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(5, numbers([11, 4])),
      message: /^linear_cross_entropy: sink must have shape \(11, 5\), got \[11, 4\]$/,
    },
    {
      what: "a sink of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          5,
          numbers([11, 5], () => 0, "int64"),
        ),
      message: /^linear_cross_entropy: sink must be Double, got Long$/,
    },
    {
      what: "a bias of another vocabulary",
      code: "SHAPE",
      arguments: (...args) => args.with(2, numbers([10])),
      message: /^linear_cross_entropy: bias must have shape \(11\), got \[10\]$/,
    },
    {
      what: "a bias of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          2,
          numbers([11], () => 0, "int64"),
        ),
      message: /^linear_cross_entropy: bias must have hidden's dtype Double, got Long$/,
    },
    {
      what: "a sink of a bias that is not there",
      code: "CONFIG",
      arguments: (...args) => args.with(6, numbers([11])),
      message: /^linear_cross_entropy: a bias_sink needs a bias$/,
    },
    {
      what: "a sink of another bias",
      code: "SHAPE",
      arguments: (...args) => args.with(2, numbers([11])).with(6, numbers([10])),
      message: /^linear_cross_entropy: bias_sink must have shape \(11\), got \[10\]$/,
    },
  ],
};

opcheck(linearCrossEntropy, () => {
  const call = operator(linearCrossEntropy),
    one = numbers([], () => 1, "accumulated");

  it("gives the same loss, count and gradients for every chunk", async () => {
    const args = linearCrossEntropy.inputs({ ...linearCrossEntropy.cases[5]!, biased: true }, new Draw(5));
    const [loss, scored] = await run(call, args);
    const sent = await gradients(call, args, [one, null]);
    for (const chunk of [1, 7, 129, 130, 131, 100_000]) {
      const other = args.with(7, chunk) as Arguments;
      const [otherLoss, otherScored] = await run(call, other);
      const otherSent = await gradients(call, other, [one, null]);
      expect(errorOf(otherLoss!.data, loss!.data), `loss, chunk ${chunk}`).to.be.below(1e-12);
      expect(otherScored!.data).to.deep.equal(scored!.data);
      otherSent.forEach(({ data }, i) => {
        expect(errorOf(data, sent[i]!.data), `gradient ${i}, chunk ${chunk}`).to.be.below(1e-12);
      });
    }
  });

  it("gives the mean loss of every group, which add up to the total by their weights", async () => {
    for (const shape of linearCrossEntropy.cases.filter(({ groups }) => groups !== undefined)) {
      const args = linearCrossEntropy.inputs(shape, new Draw(9)),
        groups = shape.groups!,
        share = shape.N / groups;
      const [, losses] = await run((...given) => callOperator(name, ...given), args);
      for (let g = 0; g < groups; g++) {
        const rows = ({ data, kind }: Numbers): Numbers =>
          numbers(
            [share, ...(data.length === shape.N ? [] : [shape.D])],
            (i) => data[(g * data.length) / groups + i]!,
            kind,
          );
        const [total] = linearCrossEntropy.reference(
          rows(args[0]),
          args[1],
          args[2],
          rows(args[3]),
          numbers([1], () => 1),
          null,
          null,
          1,
        );
        expect(losses!.data[g], `${shape.what}, group ${g}`).to.be.closeTo(total!.data[0]!, 1e-12);
      }
    }
  });

  it("adds the gradients of weight and bias to their sinks, to what those hold", async () => {
    const args = linearCrossEntropy.inputs({ ...linearCrossEntropy.cases[0]!, biased: true }, new Draw(6));
    const grad = numbers([], () => 3, "accumulated");
    await expectSinks(
      call,
      args,
      [grad, null],
      [
        { of: 1, place: 5 },
        { of: 2, place: 6 },
      ],
      1e-12,
    );
  });

  it("never holds the logits of all rows", async () => {
    const N = 512,
      D = 4,
      V = 20_000;
    const args: Arguments = [
      numbers([N, D], (i) => i % 3),
      numbers([V, D], (i) => i % 5),
      null,
      numbers([N], (i) => i, "int64"),
      numbers([1], () => 1, "accumulated"),
      null,
      null,
      16,
    ];
    const before = (await memoryAtRest()).hostBytes;
    resetPeakMemory();
    await gradients(call, args, [one, null], { dtype: "float32" });
    const peak = memoryUsage().peakHostBytes - before;
    expect(peak)
      .to.be.above(V * D * 4)
      .and.below((N * V * 4) / 4);
  });
});
