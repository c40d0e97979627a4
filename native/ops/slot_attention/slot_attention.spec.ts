import { expect } from "chai";
import { applyOperator, callOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { errorOf, meanErrorOf } from "../../../test/support/opcheck-compare.ts";
import {
  download,
  Draw,
  EPSILON,
  type FloatingDType,
  type Numbers,
  numbers,
  rounded,
  upload,
} from "../../../test/support/opcheck-numbers.ts";
import { gradients, roundedAll, run } from "../../../test/support/opcheck-run.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";

interface Case extends SpecCase {
  readonly B: number;
  readonly M: number;
  readonly T: number;
  readonly H: number;
  readonly E: number;
  /** Of the softmax. Default 1. */
  readonly tau?: number;
  /** Tokens of each row that a mask shows; without it there is no mask. */
  readonly masked?: readonly number[];
  /** Tokens of each row that are real, its first; without it all are. */
  readonly lengths?: readonly number[];
}

type Arguments = [
  query: Numbers,
  selfKey: Numbers,
  own: Numbers,
  key: Numbers,
  value: Numbers,
  mask: Numbers | null,
  heads: number,
  scale: number,
  lengths: Numbers | null,
];

/** (B, T) true at each row's first tokens, as many as `lengths` (B) says; `like` (B, T). */
function firstTokens(lengths: Tensor, like: Tensor): Tensor {
  return applyOperator(
    "aten::le.Tensor",
    applyOperator("aten::cumsum", applyOperator("aten::ones_like", like), 1),
    applyOperator("aten::unsqueeze", lengths, 1),
  );
}

export const slotAttention: OperatorSpec<Case, Arguments> = {
  name: "memformer::slot_attention",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], B: 3, M: 5, T: 7, H: 2, E: 3 },
    { what: "of one slot and one token", B: 1, M: 1, T: 1, H: 1, E: 1 },
    { what: "with a mask and a row without tokens", B: 3, M: 4, T: 5, H: 2, E: 4, masked: [3, 0, 5] },
    { what: "of one row without tokens, by a mask", B: 1, M: 3, T: 4, H: 1, E: 4, masked: [0] },
    { what: "sharpened", B: 2, M: 3, T: 9, H: 2, E: 4, tau: 0.25 },
    { what: "larger", B: 2, M: 17, T: 65, H: 4, E: 16, tau: 0.5, masked: [65, 40] },
    { what: "larger, in whole packs", B: 2, M: 17, T: 65, H: 3, E: 24, tau: 0.5 },
    { what: "of heads that a GPU's kernel takes back", tags: ["sanitize"], B: 1, M: 1024, T: 128, H: 1, E: 64 },
    {
      what: "of heads that a GPU's kernel takes back, of odd sizes",
      tags: ["sanitize"],
      B: 2,
      M: 77,
      T: 5,
      H: 2,
      E: 64,
      tau: 0.5,
    },
    {
      what: "of heads that a GPU's kernel takes back, narrow",
      tags: ["sanitize"],
      B: 1,
      M: 300,
      T: 100,
      H: 2,
      E: 32,
      tau: 0.25,
    },
    { what: "of heads that a GPU's kernel takes back, one token", tags: ["sanitize"], B: 2, M: 65, T: 1, H: 1, E: 32 },
    {
      what: "of heads that a GPU's kernel takes back, with more tokens than it takes",
      tags: ["sanitize"],
      B: 1,
      M: 30,
      T: 129,
      H: 1,
      E: 64,
    },
    {
      what: "of heads that a GPU's kernel takes back, with a mask, which it does not take",
      tags: ["sanitize"],
      B: 2,
      M: 20,
      T: 9,
      H: 2,
      E: 32,
      masked: [9, 4],
    },
    {
      what: "of heads that a GPU's kernel takes back, too many slots for one head",
      tags: ["sanitize"],
      B: 1,
      M: 1025,
      T: 3,
      H: 1,
      E: 32,
    },
    { what: "with lengths and a row without tokens", B: 3, M: 4, T: 5, H: 2, E: 4, lengths: [3, 0, 5] },
    { what: "of one row without tokens, by lengths", B: 1, M: 3, T: 4, H: 1, E: 4, lengths: [0] },
    { what: "larger, in whole packs, with lengths", B: 3, M: 17, T: 65, H: 3, E: 24, tau: 0.5, lengths: [65, 0, 33] },
    {
      what: "of heads that a GPU's kernel takes back, with lengths of every size",
      tags: ["sanitize"],
      B: 9,
      M: 77,
      T: 128,
      H: 1,
      E: 64,
      tau: 0.5,
      lengths: [128, 127, 97, 96, 33, 32, 17, 1, 0],
    },
    {
      what: "of heads that a GPU's kernel takes back, narrow, with lengths",
      tags: ["sanitize"],
      B: 3,
      M: 300,
      T: 100,
      H: 2,
      E: 32,
      tau: 0.25,
      lengths: [100, 64, 5],
    },
    {
      what: "of heads that a GPU's kernel takes back, with lengths of more tokens than it takes",
      tags: ["sanitize"],
      B: 2,
      M: 30,
      T: 129,
      H: 1,
      E: 64,
      lengths: [129, 70],
    },
    { what: "without rows", tags: ["sanitize"], B: 0, M: 3, T: 4, H: 2, E: 2 },
    { what: "without slots", B: 2, M: 0, T: 4, H: 2, E: 2 },
    { what: "without tokens", B: 2, M: 3, T: 0, H: 2, E: 2 },
  ],
  inputs({ B, M, T, H, E, tau = 1, masked, lengths }, draw) {
    const slots = (): Numbers => draw.numbers([B, M, H * E]),
      tokens = (): Numbers => draw.numbers([B, T, H * E]);
    const mask =
      masked === undefined ? null : numbers([B, T], (i) => (i % T < masked[Math.floor(i / T)]! ? 1 : 0), "bool");
    return [
      slots(),
      slots(),
      slots(),
      tokens(),
      tokens(),
      mask,
      H,
      1 / (Math.sqrt(E) * tau),
      lengths === undefined ? null : numbers([B], (b) => lengths[b]!, "int32"),
    ];
  },
  reference(query, selfKey, own, key, value, mask, H, scale, lengths) {
    const [B, M, D] = query.shape as [number, number, number];
    const T = key.shape[1]!,
      E = D / H,
      y = numbers([B, M, D]);
    for (let b = 0; b < B; b++)
      for (let i = 0; i < M; i++)
        for (let h = 0; h < H; h++) {
          const slot = (b * M + i) * D + h * E,
            token = (j: number): number => (b * T + j) * D + h * E;
          const logit = (keys: Numbers, at: number): number => {
            let sum = 0;
            for (let e = 0; e < E; e++) sum += query.data[slot + e]! * keys.data[at + e]!;
            return sum * scale;
          };
          const seen = [...Array(T).keys()].filter(
            (j) => (lengths === null || j < lengths.data[b]!) && (mask === null || mask.data[b * T + j] === 1),
          );
          const logits = [logit(selfKey, slot), ...seen.map((j) => logit(key, token(j)))];
          const most = Math.max(...logits),
            weights = logits.map((l) => Math.exp(l - most));
          const total = weights.reduce((sum, weight) => sum + weight);
          for (let e = 0; e < E; e++) {
            let sum = weights[0]! * own.data[slot + e]!;
            for (const [n, j] of seen.entries()) sum += weights[n + 1]! * value.data[token(j) + e]!;
            y.data[slot + e] = sum / total;
          }
        }
    return [y];
  },
  plain(query, selfKey, own, key, value, given, heads, scale, lengths) {
    const split = (x: Tensor): Tensor =>
      // (B, N, D) -> (B, H, N, E)
      applyOperator("aten::transpose.int", applyOperator("aten::unflatten.int", x, -1, [heads, -1]), 1, 2);
    const part = (x: Tensor, from: number, to: number | null): Tensor =>
      applyOperator("aten::slice.Tensor", x, -1, from, to);
    const mul = (a: Tensor, b: Tensor): Tensor => applyOperator("aten::mul.Tensor", a, b);
    const q = split(query);
    const self = applyOperator("aten::sum.dim_IntList", mul(q, split(selfKey)), [-1], true);
    let tokens = applyOperator("aten::matmul", q, applyOperator("aten::transpose.int", split(key), -1, -2));
    const mask = lengths === null ? given : firstTokens(lengths, applyOperator("aten::select.int", key, 2, 0));
    if (mask !== null) {
      const hidden = applyOperator(
        "aten::unsqueeze",
        applyOperator("aten::unsqueeze", applyOperator("aten::logical_not", mask), 1),
        1,
      );
      tokens = applyOperator("aten::masked_fill.Scalar", tokens, hidden, -Infinity);
    }
    // The weights by way of the logarithm of their sum, which is all that the operator keeps for its backward.
    const logits = applyOperator("aten::mul.Scalar", applyOperator("aten::cat", [self, tokens], -1), scale);
    const a = applyOperator("aten::exp", applyOperator("aten::log_softmax.int", logits, -1));
    const fromTokens = applyOperator("aten::matmul", part(a, 1, null), split(value));
    const y = applyOperator("aten::add.Tensor", mul(part(a, 0, 1), split(own)), fromTokens);
    return [applyOperator("aten::flatten.using_ints", applyOperator("aten::transpose.int", y, 1, 2), 2, 3)];
  },
  misuses: [
    {
      what: "heads that do not divide the width",
      code: "CONFIG",
      arguments: (...args) => args.with(6, 4),
      message: /^slot_attention: heads must divide the width 6, got 4$/,
    },
    {
      what: "no heads",
      code: "CONFIG",
      arguments: (...args) => args.with(6, 0),
      message: /^slot_attention: heads must divide the width 6, got 0$/,
    },
    {
      what: "a query that is no (B, M, D)",
      code: "SHAPE",
      arguments: (_, s, o, k, v, m, h, scale) => [numbers([5, 6]), s, o, k, v, m, h, scale],
      message: /^slot_attention: query must have shape \(any, any, any\), got \[5, 6\]$/,
    },
    {
      what: "own rows of other slots",
      code: "SHAPE",
      arguments: (q, s, _, k, v, m, h, scale) => [q, s, numbers([3, 4, 6]), k, v, m, h, scale],
      message: /^slot_attention: own must have shape \(3, 5, 6\), got \[3, 4, 6\]$/,
    },
    {
      what: "keys of another batch",
      code: "SHAPE",
      arguments: (q, s, o, _, v, m, h, scale) => [q, s, o, numbers([2, 7, 6]), v, m, h, scale],
      message: /^slot_attention: key must have shape \(3, any, 6\), got \[2, 7, 6\]$/,
    },
    {
      what: "values of other tokens",
      code: "SHAPE",
      arguments: (q, s, o, k, _, m, h, scale) => [q, s, o, k, numbers([3, 6, 6]), m, h, scale],
      message: /^slot_attention: value must have shape \(3, 7, 6\), got \[3, 6, 6\]$/,
    },
    {
      what: "a mask of other tokens",
      code: "SHAPE",
      arguments: (q, s, o, k, v, _, h, scale) => [q, s, o, k, v, numbers([3, 8], () => 1, "bool"), h, scale],
      message: /^slot_attention: mask must have shape \(3, 7\), got \[3, 8\]$/,
    },
    {
      what: "a mask that is not bool",
      code: "DTYPE",
      arguments: (q, s, o, k, v, _, h, scale) => [q, s, o, k, v, numbers([3, 7]), h, scale],
      message: /^slot_attention: mask must be Bool, got Double$/,
    },
    {
      what: "lengths beside a mask",
      code: "CONFIG",
      arguments: (...args) =>
        args
          .with(
            5,
            numbers([3, 7], () => 1, "bool"),
          )
          .with(
            8,
            numbers([3], () => 2, "int32"),
          ),
      message: /^slot_attention: takes a mask or lengths, got both$/,
    },
    {
      what: "lengths of other rows",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          8,
          numbers([2], () => 2, "int32"),
        ),
      message: /^slot_attention: lengths must have shape \(3\), got \[2\]$/,
    },
    {
      what: "own rows of another dtype",
      code: "DTYPE",
      arguments: (q, s, _, k, v, m, h, scale) => [q, s, numbers([3, 5, 6], () => 1, "int64"), k, v, m, h, scale],
      message: /^slot_attention: own must have query's dtype Double, or Float beside BFloat16 or Half, got Long$/,
    },
    {
      what: "keys of another dtype",
      code: "DTYPE",
      arguments: (q, s, o, _, v, m, h, scale) => [q, s, o, numbers([3, 7, 6], () => 1, "int64"), v, m, h, scale],
      message: /^slot_attention: key must have query's dtype Double, got Long$/,
    },
  ],
};

opcheck(slotAttention, () => {
  const call = (...args: (Tensor | number | null)[]): Tensor[] => callOperator(slotAttention.name, ...args);

  for (const dtype of ["float64", "float32", "bfloat16"] as const)
    for (const told of ["a mask", "lengths"]) {
      it(`returns own, to the bit, in a row without tokens, told by ${told}, in ${dtype}`, async () => {
        const shape = slotAttention.cases.find(({ what }) => what === `with ${told} and a row without tokens`)!;
        const args = slotAttention.inputs(shape, new Draw(3)),
          own = rounded(args[2], dtype);
        const [y] = await run(call, args, { dtype });
        const row = own.data.length / 3;
        expect(y!.data.slice(row, 2 * row)).to.deep.equal(own.data.slice(row, 2 * row));
        expect(y!.data.slice(0, row)).not.to.deep.equal(own.data.slice(0, row));
      });
    }

  it("does not overflow where the logits are large", async () => {
    const args = slotAttention.inputs(slotAttention.cases[0]!, new Draw(4));
    const large = args.with(7, 2000) as Arguments;
    const [y] = await run(call, large),
      [expected] = slotAttention.reference(...large);
    expect(y!.data.every((value, i) => Math.abs(value - expected!.data[i]!) < 1e-10)).to.be.true;
  });

  it("takes a float32 own beside bfloat16, and gives float32", async () => {
    const draw = new Draw(5),
      drawn = slotAttention.inputs(slotAttention.cases[5]!, draw),
      shape = drawn[2].shape;
    const own = rounded(drawn[2], "float32"),
      args = roundedAll(drawn, "bfloat16").with(2, own) as Arguments;
    const sent = upload(own, "float32"),
      leaf = sent.leaf();
    const mixed = (...given: (Tensor | number | null)[]): Tensor[] => call(...given.with(2, leaf));
    const [y] = await run(mixed, args, { dtype: "bfloat16" });
    expect(y!.dtype).to.equal("float32");
    expect(errorOf(y!.data, slotAttention.reference(...args)[0]!.data)).to.be.below(16 * EPSILON.float32);
    const cotangent = draw.numbers(shape);
    const wanted = await gradients(call, args, [cotangent]);
    const found = await gradients(mixed, args, [{ ...cotangent, kind: "accumulated" }], { dtype: "bfloat16" });
    const ofLeaf = leaf.gradient();
    found[2] = await download(ofLeaf);
    expect(found.map(({ dtype }) => dtype)).to.deep.equal(["bfloat16", "bfloat16", "float32", "bfloat16", "bfloat16"]);
    for (const [i, { data, dtype }] of found.entries()) {
      const epsilon = EPSILON[dtype as FloatingDType];
      expect(meanErrorOf(data, wanted[i]!.data)).to.be.below(dtype === "float32" ? 16 * epsilon : epsilon / 2);
    }
    for (const tensor of [sent, leaf, ofLeaf]) tensor.dispose();
  });
});
