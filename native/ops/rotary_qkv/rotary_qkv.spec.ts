import { applyOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck, operator } from "../../../test/support/opcheck.ts";
import { Draw, type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import { expectBiasSink } from "../../../test/support/opcheck-sink.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";
import { rotaryMisuses } from "../../../test/support/rotary-misuses.ts";

interface Case extends SpecCase {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly E: number;
  /** Whether there is a bias. Default true. */
  readonly biased?: boolean;
}

type Arguments = [
  qkv: Numbers,
  bias: Numbers | null,
  biasSink: Numbers | null,
  cos: Numbers,
  sin: Numbers,
  heads: number,
];

export const rotaryQkv: OperatorSpec<Case, Arguments> = {
  name: "memformer::rotary_qkv",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], B: 3, T: 5, H: 3, E: 6 },
    { what: "of odd sizes, without bias", tags: ["sanitize"], B: 3, T: 5, H: 3, E: 6, biased: false },
    { what: "of one token, one head", B: 1, T: 1, H: 1, E: 2 },
    { what: "larger than a thread's share", B: 2, T: 70, H: 4, E: 32 },
    { what: "larger, without bias", B: 2, T: 70, H: 4, E: 32, biased: false },
    { what: "without rows", tags: ["sanitize"], B: 0, T: 3, H: 2, E: 4 },
    { what: "without tokens", B: 2, T: 0, H: 2, E: 4 },
  ],
  inputs({ B, T, H, E, biased = true }, draw) {
    const angles = draw.numbers([T, E / 2], Math.PI);
    const table = (f: (x: number) => number): Numbers =>
      numbers(angles.shape, (i) => f(angles.data[i]!), "accumulated");
    const bias = biased ? draw.numbers([3 * H * E]) : null;
    return [draw.numbers([B, T, 3 * H * E]), bias, null, table(Math.cos), table(Math.sin), H];
  },
  reference(qkv, bias, _biasSink, cos, sin, H) {
    const [B, T, width] = qkv.shape as [number, number, number];
    const E = width / (3 * H),
      half = E / 2;
    const parts = [0, 1, 2].map(() => numbers([B, H, T, E]));
    for (const [part, y] of parts.entries()) {
      for (let b = 0; b < B; b++)
        for (let h = 0; h < H; h++)
          for (let t = 0; t < T; t++) {
            const from = (b * T + t) * width + (part * H + h) * E,
              to = ((b * H + h) * T + t) * E;
            for (let e = 0; e < half; e++) {
              const at = (i: number): number => qkv.data[i]! + (bias === null ? 0 : bias.data[i % width]!);
              const x1 = at(from + e),
                x2 = at(from + half + e);
              const c = part === 2 ? 1 : cos.data[t * half + e]!,
                s = part === 2 ? 0 : sin.data[t * half + e]!;
              y.data[to + e] = x1 * c - x2 * s;
              y.data[to + half + e] = x2 * c + x1 * s;
            }
          }
    }
    return parts;
  },
  plain(qkv, bias, _biasSink, cos, sin, heads) {
    const [c, s] = [applyOperator("aten::type_as", cos, qkv), applyOperator("aten::type_as", sin, qkv)];
    const shifted = bias === null ? qkv : applyOperator("aten::add.Tensor", qkv, bias);
    const packed = applyOperator("aten::unflatten.int", shifted, -1, [3, heads, 2, -1]);
    const split = applyOperator("aten::permute", packed, [2, 0, 3, 1, 4, 5]); // (3, B, H, T, 2, E/2)
    const turned = (part: number): Tensor => {
      const x = applyOperator("aten::select.int", split, 0, part);
      const x1 = applyOperator("aten::select.int", x, -2, 0),
        x2 = applyOperator("aten::select.int", x, -2, 1);
      const mul = (a: Tensor, b: Tensor): Tensor => applyOperator("aten::mul.Tensor", a, b);
      const y1 = applyOperator("aten::sub.Tensor", mul(x1, c), mul(x2, s));
      const y2 = applyOperator("aten::add.Tensor", mul(x2, c), mul(x1, s));
      return applyOperator("aten::cat", [y1, y2], -1);
    };
    return [
      turned(0),
      turned(1),
      applyOperator("aten::flatten.using_ints", applyOperator("aten::select.int", split, 0, 2), -2, -1),
    ];
  },
  misuses: rotaryMisuses("rotary_qkv", 5),
};

opcheck(rotaryQkv, () => {
  it("adds the gradient of the bias to its sink, to what that holds", async () => {
    const draw = new Draw(3),
      args = rotaryQkv.inputs(rotaryQkv.cases[0]!, draw);
    await expectBiasSink(
      operator(rotaryQkv),
      args,
      [0, 1, 2].map(() => draw.numbers([3, 3, 5, 6])),
      1e-14,
    );
  });
});
