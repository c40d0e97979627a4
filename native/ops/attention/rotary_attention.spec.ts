import { applyOperator, callOperator, callListOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck, operator } from "../../../test/support/opcheck.ts";
import { Draw, type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import { expectBiasSink } from "../../../test/support/opcheck-sink.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";
import { rotaryMisuses } from "../../../test/support/rotary-misuses.ts";
import { normedHeads } from "../../../test/support/normed-heads.ts";
import { visibleKeys } from "../../../test/support/visible-keys.ts";

interface Case extends SpecCase {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly E: number;
  readonly causal: boolean;
  /** Whether there is a bias. Default true. */
  readonly biased?: boolean;
  /** Tokens of each row that a mask shows. Default: there is no mask. */
  readonly masked?: readonly number[];
  /** Keys of each row that are seen, its first; without it all are. */
  readonly lengths?: readonly number[];
  /** Whether queries and keys are divided by their root mean square. Default false. */
  readonly norm?: boolean;
}

type Arguments = [
  qkv: Numbers,
  bias: Numbers | null,
  biasSink: Numbers | null,
  cos: Numbers,
  sin: Numbers,
  mask: Numbers | null,
  causal: number,
  heads: number,
  lengths: Numbers | null,
  norm: number,
];

export const rotaryAttention: OperatorSpec<Case, Arguments> = {
  name: "memformer::rotary_attention",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], B: 3, T: 5, H: 3, E: 6, causal: false },
    {
      what: "of odd sizes, causal, without bias",
      tags: ["sanitize"],
      B: 3,
      T: 5,
      H: 3,
      E: 6,
      causal: true,
      biased: false,
    },
    { what: "with a mask", B: 3, T: 5, H: 2, E: 4, causal: false, masked: [5, 1, 3] },
    { what: "of one token, one head", B: 1, T: 1, H: 1, E: 2, causal: true },
    { what: "of heads that a GPU's kernel takes", tags: ["sanitize"], B: 2, T: 56, H: 2, E: 32, causal: true },
    {
      what: "of heads that a GPU's kernel takes, without bias",
      tags: ["sanitize"],
      B: 1,
      T: 33,
      H: 3,
      E: 64,
      causal: false,
      biased: false,
    },
    {
      what: "of heads that a GPU's kernel takes, with a mask",
      tags: ["sanitize"],
      B: 3,
      T: 40,
      H: 1,
      E: 32,
      causal: true,
      masked: [40, 0, 17],
    },
    {
      what: "of heads that a GPU's kernel takes, as large as it takes",
      tags: ["sanitize"],
      B: 1,
      T: 128,
      H: 2,
      E: 64,
      causal: false,
    },
    { what: "with lengths", B: 4, T: 5, H: 2, E: 4, causal: false, lengths: [5, 1, 3, 0] },
    {
      what: "with lengths, causal, without bias",
      B: 2,
      T: 5,
      H: 2,
      E: 4,
      causal: true,
      lengths: [5, 2],
      biased: false,
    },
    {
      what: "of heads that a GPU's kernel takes, with lengths of every size",
      tags: ["sanitize"],
      B: 7,
      T: 56,
      H: 2,
      E: 32,
      causal: false,
      lengths: [56, 55, 33, 32, 16, 1, 0],
    },
    {
      what: "of heads that a GPU's kernel takes, as large as it takes, with lengths",
      tags: ["sanitize"],
      B: 6,
      T: 128,
      H: 1,
      E: 64,
      causal: false,
      lengths: [128, 100, 65, 64, 17, 0],
    },
    { what: "of heads that a GPU's kernel does not take", B: 2, T: 40, H: 2, E: 16, causal: true },
    { what: "normed", B: 2, T: 5, H: 2, E: 6, causal: true, norm: true },
    {
      what: "normed, without bias, with a mask",
      B: 3,
      T: 5,
      H: 2,
      E: 4,
      causal: false,
      masked: [5, 1, 3],
      biased: false,
      norm: true,
    },
    {
      what: "normed, of heads that a GPU's kernel takes",
      tags: ["sanitize"],
      B: 2,
      T: 56,
      H: 2,
      E: 32,
      causal: true,
      norm: true,
    },
    {
      what: "normed, of heads that a GPU's kernel takes, as large as it takes, with lengths",
      tags: ["sanitize"],
      B: 4,
      T: 128,
      H: 2,
      E: 64,
      causal: false,
      lengths: [128, 100, 17, 0],
      norm: true,
    },
    {
      what: "normed, of heads that a GPU's kernel takes, of an odd number of tokens, without bias",
      tags: ["sanitize"],
      B: 1,
      T: 33,
      H: 3,
      E: 64,
      causal: true,
      biased: false,
      norm: true,
    },
    { what: "without rows", tags: ["sanitize"], B: 0, T: 3, H: 2, E: 4, causal: true },
  ],
  inputs({ B, T, H, E, causal, biased = true, masked, lengths, norm = false }, draw) {
    const angles = draw.numbers([T, E / 2], Math.PI);
    const table = (f: (x: number) => number): Numbers =>
      numbers(angles.shape, (i) => f(angles.data[i]!), "accumulated");
    // A token sees itself whatever it is, as in the model.
    const mask =
      masked &&
      numbers(
        [B, 1, T, T],
        (at) => {
          const j = at % T,
            i = Math.floor(at / T) % T,
            b = Math.floor(at / T / T);
          return i === j || (j < masked[b]! && (!causal || j <= i)) ? 1 : 0;
        },
        "bool",
      );
    return [
      draw.numbers([B, T, 3 * H * E]),
      biased ? draw.numbers([3 * H * E]) : null,
      null,
      table(Math.cos),
      table(Math.sin),
      mask ?? null,
      Number(causal),
      H,
      lengths === undefined ? null : numbers([B], (b) => lengths[b]!, "int32"),
      Number(norm),
    ];
  },
  call: (qkv, bias, biasSink, cos, sin, mask, causal, heads, lengths, norm) =>
    callOperator(
      "memformer::rotary_attention",
      ...[qkv, bias, biasSink, cos, sin, mask, causal === 1, heads, lengths, norm === 1],
    ),
  reference(qkv, bias, _biasSink, cos, sin, mask, causal, H, lengths, norm) {
    const [B, T, width] = qkv.shape as [number, number, number],
      D = width / 3,
      E = D / H,
      half = E / 2,
      y = numbers([B, T, D]);
    const number = (b: number, t: number, part: number, h: number, e: number): number => {
      const column = (part * H + h) * E + e;
      return qkv.data[(b * T + t) * width + column]! + (bias === null ? 0 : bias.data[column]!);
    };
    const turned = (b: number, t: number, part: number, h: number, e: number): number => {
      const low = e % half,
        c = cos.data[t * half + low]!,
        s = sin.data[t * half + low]!;
      const x1 = number(b, t, part, h, low),
        x2 = number(b, t, part, h, low + half);
      return e < half ? x1 * c - x2 * s : x2 * c + x1 * s;
    };
    const normed = (head: number[]): number[] => {
      const square = head.reduce((sum, x) => sum + x * x, 0) / E;
      return norm === 1 ? head.map((x) => x / Math.sqrt(square + 1e-6)) : head;
    };
    const heads = (b: number, h: number, part: number): number[][] =>
      Array.from({ length: T }, (_, t) => {
        const all = Array.from({ length: E }, (__, e) => (part === 2 ? number : turned)(b, t, part, h, e));
        return part === 2 ? all : normed(all);
      });
    for (let b = 0; b < B; b++)
      for (let h = 0; h < H; h++) {
        const q = heads(b, h, 0),
          k = heads(b, h, 1),
          v = heads(b, h, 2);
        for (let i = 0; i < T; i++) {
          const seen = [...Array(T).keys()].filter(
            (j) =>
              (lengths === null || j < Math.max(1, lengths.data[b]!)) &&
              (mask === null ? causal === 0 || j <= i : mask.data[(b * T + i) * T + j] === 1),
          );
          const scores = seen.map((j) => q[i]!.reduce((sum, x, e) => sum + x * k[j]![e]!, 0) / Math.sqrt(E));
          const most = Math.max(...scores),
            weights = scores.map((score) => Math.exp(score - most));
          const total = weights.reduce((sum, weight) => sum + weight);
          for (let e = 0; e < E; e++) {
            y.data[(b * T + i) * D + h * E + e] = seen.reduce((sum, j, n) => sum + weights[n]! * v[j]![e]!, 0) / total;
          }
        }
      }
    return [y];
  },
  plain(qkv, bias, _biasSink, cos, sin, mask, causal, heads, lengths, norm) {
    const seen =
      lengths === null ? mask : visibleKeys(lengths, applyOperator("aten::select.int", qkv, 2, 0), causal === 1);
    const [c, s] = [applyOperator("aten::type_as", cos, qkv), applyOperator("aten::type_as", sin, qkv)];
    const shifted = bias === null ? qkv : applyOperator("aten::add.Tensor", qkv, bias);
    const packed = applyOperator("aten::unflatten.int", shifted, -1, [3, heads, -1]); // (B, T, 3, H, E)
    const part = (i: number): Tensor =>
      applyOperator("aten::transpose.int", applyOperator("aten::select.int", packed, 2, i), 1, 2);
    const turned = (x: Tensor): Tensor => {
      const [x1, x2] = callListOperator("aten::chunk", 2, x, 2, -1) as [Tensor, Tensor];
      const mul = (a: Tensor, b: Tensor): Tensor => applyOperator("aten::mul.Tensor", a, b);
      return applyOperator(
        "aten::cat",
        [
          applyOperator("aten::sub.Tensor", mul(x1, c), mul(x2, s)),
          applyOperator("aten::add.Tensor", mul(x2, c), mul(x1, s)),
        ],
        -1,
      );
    };
    const [y] = callOperator(
      "aten::_scaled_dot_product_attention_math",
      norm === 1 ? normedHeads(turned(part(0))) : turned(part(0)),
      norm === 1 ? normedHeads(turned(part(1))) : turned(part(1)),
      part(2),
      seen,
      0,
      causal === 1 && seen === null,
    );
    return [applyOperator("aten::flatten.using_ints", applyOperator("aten::transpose.int", y!, 1, 2), -2, -1)];
  },
  misuses: [
    ...rotaryMisuses("rotary_attention", 7),
    {
      what: "a mask of other tokens",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          5,
          numbers([3, 1, 5, 6], () => 1, "bool"),
        ),
      message: /^rotary_attention: mask must have shape \(3 or 1, 1, 5 or 1, 5\), got \[3, 1, 5, 6\]$/,
    },
    {
      what: "lengths of other rows",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          8,
          numbers([2], () => 2, "int32"),
        ),
      message: /^rotary_attention: lengths must have shape \(3\), got \[2\]$/,
    },
  ],
};

opcheck(rotaryAttention, () => {
  it("adds the gradient of the bias to its sink, to what that holds", async () => {
    const draw = new Draw(3),
      args = rotaryAttention.inputs(rotaryAttention.cases[0]!, draw);
    await expectBiasSink(operator(rotaryAttention), args, [draw.numbers([3, 5, 18])], 1e-13);
  });
});
