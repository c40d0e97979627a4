import { apply, type Tensor } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import type { OperatorSpec } from "../../../test/support/opcheck-spec.ts";

interface Case { readonly what: string; readonly B: number; readonly T: number; readonly H: number; readonly E: number }

export const rotaryQkv: OperatorSpec<Case, [qkv: Numbers, cos: Numbers, sin: Numbers, heads: number]> = {
  name: "memformer::rotary_qkv",
  cases: [
    { what: "of odd sizes", B: 3, T: 5, H: 3, E: 6 },
    { what: "of one token, one head", B: 1, T: 1, H: 1, E: 2 },
    { what: "larger than a thread's share", B: 2, T: 70, H: 4, E: 32 },
    { what: "without rows", B: 0, T: 3, H: 2, E: 4 },
    { what: "without tokens", B: 2, T: 0, H: 2, E: 4 },
  ],
  inputs({ B, T, H, E }, draw) {
    const angles = draw.numbers([T, E / 2], Math.PI);
    const table = (f: (x: number) => number): Numbers =>
      numbers(angles.shape, (i) => f(angles.data[i]!), "accumulated");
    return [draw.numbers([B, T, 3 * H * E]), table(Math.cos), table(Math.sin), H];
  },
  reference(qkv, cos, sin, H) {
    const [B, T, width] = qkv.shape as [number, number, number];
    const E = width / (3 * H), half = E / 2;
    const parts = [0, 1, 2].map(() => numbers([B, H, T, E]));
    for (const [part, y] of parts.entries()) {
      for (let b = 0; b < B; b++) for (let h = 0; h < H; h++) for (let t = 0; t < T; t++) {
        const from = (b * T + t) * width + (part * H + h) * E, to = ((b * H + h) * T + t) * E;
        for (let e = 0; e < half; e++) {
          const x1 = qkv.data[from + e]!, x2 = qkv.data[from + half + e]!;
          const c = part === 2 ? 1 : cos.data[t * half + e]!, s = part === 2 ? 0 : sin.data[t * half + e]!;
          y.data[to + e] = x1 * c - x2 * s;
          y.data[to + half + e] = x2 * c + x1 * s;
        }
      }
    }
    return parts;
  },
  plain(qkv, cos, sin, heads) {
    const [c, s] = [apply("aten::type_as", cos, qkv), apply("aten::type_as", sin, qkv)];
    const packed = apply("aten::unflatten.int", qkv, -1, [3, heads, 2, -1]);
    const split = apply("aten::permute", packed, [2, 0, 3, 1, 4, 5]); // (3, B, H, T, 2, E/2)
    const turned = (part: number): Tensor => {
      const x = apply("aten::select.int", split, 0, part);
      const x1 = apply("aten::select.int", x, -2, 0), x2 = apply("aten::select.int", x, -2, 1);
      const mul = (a: Tensor, b: Tensor): Tensor => apply("aten::mul.Tensor", a, b);
      const y1 = apply("aten::sub.Tensor", mul(x1, c), mul(x2, s));
      const y2 = apply("aten::add.Tensor", mul(x2, c), mul(x1, s));
      return apply("aten::cat", [y1, y2], -1);
    };
    return [turned(0), turned(1), apply("aten::flatten.using_ints", apply("aten::select.int", split, 0, 2), -2, -1)];
  },
  misuses: [
    {
      what: "a width that the heads do not divide", code: "CONFIG",
      arguments: (_, cos, sin, heads) => [numbers([3, 5, 55]), cos, sin, heads],
      message: /^rotary_qkv: qkv's width must be 3 x heads x an even number, got 55 with 3 heads$/,
    },
    {
      what: "no heads", code: "CONFIG",
      arguments: (qkv, cos, sin) => [qkv, cos, sin, 0],
      message: /^rotary_qkv: qkv's width must be 3 x heads x an even number, got 54 with 0 heads$/,
    },
    {
      what: "qkv that is no (B, T, 3 D)", code: "SHAPE",
      arguments: (_, cos, sin, heads) => [numbers([5, 54]), cos, sin, heads],
      message: /^rotary_qkv: qkv must have shape \(any, any, any\), got \[5, 54\]$/,
    },
    {
      what: "angles of other positions", code: "SHAPE",
      arguments: (qkv, _, sin, heads) => [qkv, numbers([4, 3]), sin, heads],
      message: /^rotary_qkv: cos must have shape \(5, 3\), got \[4, 3\]$/,
    },
    {
      what: "angles of another dtype", code: "DTYPE",
      arguments: (qkv, cos, _, heads) => [qkv, cos, numbers([5, 3], () => 0, "int32"), heads],
      message: /^rotary_qkv: sin must be Double, got Int$/,
    },
    {
      what: "whole numbers", code: "DTYPE",
      arguments: (_, cos, sin, heads) => [numbers([3, 5, 54], () => 1, "int64"), cos, sin, heads],
      message: /^rotary_qkv: qkv must be float32, float64 or bfloat16, got Long$/,
    },
  ],
  cost: ({ B, T, H, E }, size) => ({ bytes: 6 * size * B * T * H * E + 4 * T * E, flops: 6 * B * T * H * E }),
};

opcheck(rotaryQkv);
