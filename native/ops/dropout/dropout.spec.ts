import { expect } from "chai";
import { applyOperator } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import { run } from "../../../test/support/opcheck-run.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";

interface Case extends SpecCase {
  readonly shape: readonly number[];
  readonly p: number;
  /** One, or one a share. Default 0. */
  readonly seed?: number | readonly number[];
  readonly site?: number;
}

const word = (x: bigint): bigint => BigInt.asUintN(32, x);
const low = (x: bigint): bigint => word(x),
  high = (x: bigint): bigint => word(x >> 32n);

/** Philox4x32-10 as its paper has it: four words of a counter of four words and a key of two. */
function philox(counter: readonly bigint[], key: readonly bigint[]): bigint[] {
  let [c0, c1, c2, c3] = counter as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const product0 = 0xd2511f53n * c0,
      product1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [high(product1) ^ c1 ^ k0, low(product1), high(product0) ^ c3 ^ k1, low(product0)];
    [k0, k1] = [word(k0 + 0x9e3779b9n), word(k1 + 0xbb67ae85n)];
  }
  return [c0, c1, c2, c3];
}

/** One a share. */
const seeds = (each: readonly number[]): Numbers => numbers([each.length], (i) => each[i]!, "int64");

export const dropout: OperatorSpec<Case, [x: Numbers, p: number, seed: Numbers, site: number]> = {
  name: "memformer::dropout",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], shape: [3, 5, 7], p: 0.1, seed: 1, site: 2 },
    { what: "of one number", shape: [1], p: 0.5 },
    { what: "of a scalar", shape: [], p: 0.25, seed: 3 },
    { what: "of a block and one", shape: [65], p: 0.5, seed: 2 ** 52 + 12345, site: 2 ** 40 + 7 },
    { what: "of several threads' shares", shape: [5, 4099], p: 0.3, seed: -1, site: -1 },
    { what: "that drops nothing", shape: [4, 9], p: 0, seed: 5 },
    { what: "that drops almost all", shape: [40, 9], p: 0.99, seed: 6 },
    { what: "with a seed a share", shape: [3, 5, 7], p: 0.5, seed: [7, -8, 9], site: 1 },
    { what: "with a seed a share of whole packs", shape: [4, 9, 8], p: 0.5, seed: [7, 8], site: 1 },
    { what: "of nothing", shape: [0, 4], p: 0.5 },
    { what: "of nothing, with seeds", shape: [0, 4], p: 0.5, seed: [1, 2] },
  ],
  inputs: ({ shape, p, seed = 0, site = 0 }, draw) => [
    draw.numbers(shape),
    p,
    typeof seed === "number" ? numbers([], () => seed, "int64") : seeds(seed),
    site,
  ],
  reference(x, p, seed, site) {
    const t = BigInt(site),
      share = x.data.length / seed.data.length;
    const y = numbers(x.shape);
    for (let i = 0; i < x.data.length; i++) {
      const group = Math.floor(i / share),
        within = i - group * share,
        s = BigInt(seed.data[group]!);
      const words = philox([BigInt(within >> 2), 0n, low(t), high(t)], [low(s), high(s)]);
      y.data[i] = Number(words[within % 4]) >= Math.floor(p * 2 ** 32) ? x.data[i]! / (1 - p) : 0;
    }
    return [y];
  },
  plain: (x, p, seed, site) => [
    applyOperator(
      "aten::mul.Tensor",
      x,
      applyOperator("memformer::dropout", applyOperator("aten::ones_like", x), p, seed, site),
    ),
  ],
  misuses: [
    {
      what: "to drop everything",
      code: "CONFIG",
      arguments: (x, _, seed, site) => [x, 1, seed, site],
      message: /^dropout: p must be at least 0 and below 1, got 1$/,
    },
    {
      what: "a negative rate",
      code: "CONFIG",
      arguments: (x, _, seed, site) => [x, -0.5, seed, site],
      message: /^dropout: p must be at least 0 and below 1, got -0\.5$/,
    },
    {
      what: "a rate that is no number",
      code: "CONFIG",
      arguments: (x, _, seed, site) => [x, NaN, seed, site],
      message: /^dropout: p must be at least 0 and below 1, got -?nan$/,
    },
    {
      what: "seeds of unequal shares",
      code: "SHAPE",
      arguments: (x, p, _, site) => [x, p, seeds([1, 2]), site],
      message: /^dropout: seed must have shape \(\) or \(G\), where G divides the 105 numbers of x, got \[2\]$/,
    },
    {
      what: "no seeds",
      code: "SHAPE",
      arguments: (x, p, _, site) => [x, p, seeds([]), site],
      message: /^dropout: seed must have shape \(\) or \(G\), where G divides the 105 numbers of x, got \[0\]$/,
    },
    {
      what: "a seed of another dtype",
      code: "DTYPE",
      arguments: (x, p, _, site) => [x, p, numbers([], () => 1, "int32"), site],
      message: /^dropout: seed must be Long, got Int$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (_, p, seed, site) => [numbers([3], () => 1, "int64"), p, seed, site],
      message: /^dropout: x must be float32, float64 or bfloat16, got Long$/,
    },
  ],
};

opcheck(dropout, () => {
  it("draws the published words of Philox4x32-10", async () => {
    const ones = 0xffffffffn;
    expect(philox([0n, 0n, 0n, 0n], [0n, 0n])).to.deep.equal([0x6627e8d5n, 0xe169c58dn, 0xbc57ac4cn, 0x9b00dbd8n]);
    expect(philox([ones, ones, ones, ones], [ones, ones])).to.deep.equal([
      0x408f276dn,
      0x41c83b0en,
      0xa20bc7c6n,
      0x6d5451fdn,
    ]);
    expect(philox([0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n], [0xa4093822n, 0x299f31d0n])).to.deep.equal([
      0xd16cfe09n,
      0x94fdccebn,
      0x5001e420n,
      0x24126ea1n,
    ]);
    // The operator's own first four words: p x 2^32 equal to a word keeps its element, one more drops it.
    for (const [i, drawn] of [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8].entries()) {
      for (const [threshold, kept] of [
        [drawn, true],
        [drawn + 1, false],
      ] as const) {
        const x = numbers([4], () => 1),
          seed = numbers([], () => 0, "int64");
        const [y] = await run(
          (...args) => [applyOperator("memformer::dropout", ...args)],
          [x, threshold / 2 ** 32, seed, 0],
        );
        expect(y!.data[i] !== 0, `word ${i}`).to.equal(kept);
      }
    }
  });
});
