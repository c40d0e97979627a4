import { expect } from "chai";
import { callOperator, type Tensor } from "../lib/index.ts";
import { describeOnGpu } from "./support/gpu.ts";
import { moved } from "./support/opcheck-cuda.ts";
import { Draw, type Found, type Numbers } from "./support/opcheck-numbers.ts";
import { gradients, run } from "./support/opcheck-run.ts";
import type { Call } from "./support/opcheck-spec.ts";

const whole: Call = (x, up, upBias, down) =>
  callOperator("memformer::feed_forward", x, up, upBias, down, null, null, null, null, null, 0, null, 0);
const composed: Call = (x, up, upBias, down) => {
  const product = callOperator("memformer::linear", x, up, null, null, null)[0] as Tensor;
  const activation = callOperator("memformer::gelu_dropout", product, upBias, null, 0, null, 0)[0] as Tensor;
  return callOperator("memformer::linear", activation, down, null, null, null);
};

/** |a - b| / |b|, Euclidean. */
function distance({ data: a }: Found, { data: b }: Found): number {
  return Math.sqrt(
    a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0) / b.reduce((sum, value) => sum + value ** 2, 0),
  );
}

describeOnGpu("a feed-forward of a real model's size on a GPU", () => {
  // Rows for several tiles a block, the last of them not whole.
  const N = 3001,
    D = 512,
    F = 2048,
    draw = new Draw(1);
  const args: Numbers[] = [
    draw.numbers([N, D]),
    draw.numbers([F, D], 0.06),
    draw.numbers([F]),
    draw.numbers([D, F], 0.03),
  ];
  const cotangent = draw.numbers([N, D]);

  it("gives what its parts give, and sends the same back, twice the same bits", async () => {
    const options = { dtype: "bfloat16" } as const;
    const results = async (call: Call): Promise<Found[]> => [
      ...(await run(moved(call), args, options)),
      ...(await gradients(moved(call), args, [cotangent], options)),
    ];
    const found = await results(whole),
      again = await results(whole),
      expected = await results(composed);
    for (const [i, what] of ["result", "x", "first weight", "first bias", "second weight"].entries()) {
      expect(distance(found[i]!, expected[i]!), what).to.be.below(6e-3);
      expect(
        found[i]!.data.every((value, at) => value === again[i]!.data[at]),
        `${what}, again`,
      ).to.be.true;
    }
  });
});
