import { expect } from "chai";
import { applyOperator, callOperator, callListOperator, type Tensor } from "../lib/index.ts";
import { describeOnGpu } from "./support/gpu.ts";
import { moved } from "./support/opcheck-cuda.ts";
import { Draw, type Numbers, numbers } from "./support/opcheck-numbers.ts";
import { gradients } from "./support/opcheck-run.ts";
import type { Call } from "./support/opcheck-spec.ts";

const attend = (q: Tensor, k: Tensor, v: Tensor): Tensor[] =>
  callOperator("memformer::attention", q, k, v, null, false);

describeOnGpu("attention on a GPU, over keys and values that lie side by side", () => {
  for (const [what, N, M] of [
    ["few keys", 40, 50],
    ["many keys", 40, 200],
  ] as const) {
    it(`sends the same bits back as over those apart: ${what}`, async () => {
      const B = 2,
        H = 3,
        E = 64,
        draw = new Draw(1);
      const q = draw.numbers([B, H, N, E]),
        packed = draw.numbers([B, M, 2, H, E]),
        cotangent = draw.numbers([B, H, N, E]);
      const place = (half: number, at: number): number => {
        // in packed, of number `at` of (B, H, M, E)
        const e = at % E,
          m = Math.floor(at / E) % M,
          h = Math.floor(at / E / M) % H,
          b = Math.floor(at / E / M / H);
        return (((b * M + m) * 2 + half) * H + h) * E + e;
      };
      const half = (of: Numbers, i: number): Numbers => numbers([B, H, M, E], (at) => of.data[place(i, at)]!);
      const part = (of: Tensor, i: number): Tensor =>
        applyOperator("aten::transpose.int", applyOperator("aten::select.int", of, 2, i), 1, 2);
      const apart: Call = (...[a, k, v]) => attend(a as Tensor, k as Tensor, v as Tensor);
      const beside: Call = (...[a, both]) => attend(a as Tensor, part(both as Tensor, 0), part(both as Tensor, 1));
      const options = { dtype: "bfloat16" } as const;
      const expected = await gradients(moved(apart), [q, half(packed, 0), half(packed, 1)], [cotangent], options);
      const [ofQuery, ofBoth] = await gradients(moved(beside), [q, packed], [cotangent], options);
      const same = (a: Float64Array, at: (i: number) => number): boolean => a.every((value, i) => value === at(i));
      expect(
        same(expected[0]!.data, (i) => ofQuery!.data[i]!),
        "queries",
      ).to.be.true;
      for (const i of [0, 1])
        expect(
          same(expected[i + 1]!.data, (at) => ofBoth!.data[place(i, at)]!),
          `part ${i}`,
        ).to.be.true;
    });
  }

  for (const [what, N, M] of [
    ["few keys", 40, 50],
    ["many keys", 40, 200],
  ] as const) {
    for (const twice of [false, true]) {
      it(`sends the same bits back to the keys and values of several layers${twice ? ", each read twice" : ""}: ${what}`, async () => {
        const B = 2,
          H = 2,
          D = 128,
          L = 3,
          draw = new Draw(2);
        const weights = draw.numbers([L * 2 * D, D], 0.1),
          biases = draw.numbers([L * 2 * D]),
          context = draw.numbers([B, M, D]);
        const query = draw.numbers([B, H, N, D / H]),
          cotangents = Array.from({ length: L * (twice ? 2 : 1) }, () => draw.numbers([B, H, N, D / H]));
        const call =
          (prepare: (of: Tensor) => Tensor): Call =>
          (...given) => {
            const [q, x, weight, bias] = given as Tensor[];
            const layers = (of: Tensor): Tensor[] =>
              Array.from({ length: L }, (_, l) => applyOperator("aten::narrow", of, 0, l * 2 * D, 2 * D));
            const parts = callListOperator(
              "memformer::kv_projection",
              2 * L,
              x!,
              layers(weight!),
              layers(bias!),
              [],
              [],
              H,
            ).map(prepare);
            return Array.from(
              { length: L * (twice ? 2 : 1) },
              (_, i) => attend(q!, parts[2 * (i % L)]!, parts[2 * (i % L) + 1]!)[0]!,
            );
          };
        const options = { dtype: "bfloat16" } as const,
          args = [query, context, weights, biases];
        const expected = await gradients(
          moved(call((of) => applyOperator("aten::clone", of, 0))),
          args,
          cotangents,
          options,
        );
        const found = await gradients(moved(call((of) => of)), args, cotangents, options);
        for (const [i, name] of ["queries", "context", "weights", "biases"].entries()) {
          expect(
            found[i]!.data.every((value, at) => value === expected[i]!.data[at]),
            name,
          ).to.be.true;
          expect(
            found[i]!.data.some((value) => value !== 0),
            `${name} at all`,
          ).to.be.true;
        }
      });
    }
  }
});
