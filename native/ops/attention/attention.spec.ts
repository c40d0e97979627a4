import { expect } from "chai";
import { applyOperator, callOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { Draw, type Numbers, numbers } from "../../../test/support/opcheck-numbers.ts";
import { run } from "../../../test/support/opcheck-run.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";
import { normedHeads } from "../../../test/support/normed-heads.ts";
import { visibleKeys } from "../../../test/support/visible-keys.ts";

interface Case extends SpecCase {
  readonly B: number;
  readonly H: number;
  readonly N: number;
  readonly M: number;
  readonly E: number;
  /** Has the rows of the batch and the queries that it tells apart; without it there is no mask. */
  readonly mask?: { readonly rows: number; readonly queries: number; sees(b: number, i: number, j: number): boolean };
  /** Keys of each row that are seen, its first; without it all are. */
  readonly lengths?: readonly number[];
  /** Keys after the query are not seen, by the operator's own doing. Default false. */
  readonly causal?: boolean;
  /** What is divided by its root mean square. Default: nothing. */
  readonly norm?: "queries" | "keys" | "both";
  /** Of the queries: where it is large, the softmax is sharp. Default 1. */
  readonly gain?: number;
}

type Arguments = [
  q: Numbers,
  k: Numbers,
  v: Numbers,
  mask: Numbers | null,
  causal: number,
  lengths: Numbers | null,
  normQueries: number,
  normKeys: number,
];

const padded =
  (lengths: readonly number[]) =>
  (b: number, _: number, j: number): boolean =>
    j < lengths[b]!;
const upTo = (_: number, i: number, j: number): boolean => j <= i;

export const attention: OperatorSpec<Case, Arguments> = {
  name: "memformer::attention",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], B: 3, H: 2, N: 5, M: 7, E: 3 },
    { what: "of size 1 everywhere", B: 1, H: 1, N: 1, M: 1, E: 1 },
    { what: "of one query and many keys", B: 2, H: 3, N: 1, M: 9, E: 4 },
    { what: "of many queries and one key", B: 2, H: 3, N: 9, M: 1, E: 4 },
    {
      what: "with a mask for every row",
      B: 3,
      H: 2,
      N: 5,
      M: 4,
      E: 3,
      mask: { rows: 3, queries: 1, sees: padded([4, 1, 3]) },
    },
    { what: "with one mask for all", B: 3, H: 2, N: 5, M: 4, E: 3, mask: { rows: 1, queries: 1, sees: padded([2]) } },
    { what: "with a causal mask", B: 2, H: 2, N: 6, M: 6, E: 4, mask: { rows: 1, queries: 6, sees: upTo } },
    {
      what: "with a mask for every row and query",
      B: 2,
      H: 2,
      N: 6,
      M: 6,
      E: 4,
      mask: { rows: 2, queries: 6, sees: (b, i, j) => (upTo(b, i, j) && (j + b) % 3 !== 1) || i === j },
    },
    { what: "causal", B: 2, H: 2, N: 6, M: 6, E: 4, causal: true },
    {
      what: "causal, with a mask that says so too",
      B: 2,
      H: 2,
      N: 6,
      M: 6,
      E: 4,
      causal: true,
      mask: { rows: 2, queries: 6, sees: (b, i, j) => (upTo(b, i, j) && (j + b) % 3 !== 1) || i === j },
    },
    { what: "of heads that a GPU's kernel takes", tags: ["sanitize"], B: 2, H: 3, N: 56, M: 56, E: 32, causal: true },
    {
      what: "of heads that a GPU's kernel takes, with padding",
      tags: ["sanitize"],
      B: 2,
      H: 2,
      N: 50,
      M: 37,
      E: 64,
      mask: { rows: 2, queries: 1, sees: padded([37, 11]) },
    },
    {
      what: "of heads that a GPU's kernel takes, as large as it takes",
      tags: ["sanitize"],
      B: 1,
      H: 2,
      N: 128,
      M: 128,
      E: 64,
      causal: true,
    },
    { what: "of heads that a GPU's kernel takes, one query", tags: ["sanitize"], B: 2, H: 2, N: 1, M: 99, E: 64 },
    {
      what: "of heads that a GPU's kernel takes, one key, a mask for each query",
      tags: ["sanitize"],
      B: 1,
      H: 2,
      N: 70,
      M: 1,
      E: 32,
      mask: { rows: 1, queries: 70, sees: () => true },
    },
    { what: "with lengths", B: 4, H: 2, N: 5, M: 4, E: 3, lengths: [4, 1, 3, 0] },
    { what: "with lengths, causal", B: 3, H: 2, N: 6, M: 6, E: 4, causal: true, lengths: [6, 2, 4] },
    {
      what: "of heads that a GPU's kernel takes, with lengths of every size",
      tags: ["sanitize"],
      B: 9,
      H: 1,
      N: 64,
      M: 64,
      E: 32,
      lengths: [64, 63, 49, 48, 17, 16, 15, 1, 0],
    },
    {
      what: "of heads that a GPU's kernel takes, as large as it takes, with lengths",
      tags: ["sanitize"],
      B: 8,
      H: 1,
      N: 128,
      M: 128,
      E: 64,
      lengths: [128, 127, 65, 64, 63, 33, 1, 0],
    },
    {
      what: "of heads that a GPU's kernel takes, causal, with lengths",
      tags: ["sanitize"],
      B: 3,
      H: 2,
      N: 100,
      M: 100,
      E: 32,
      causal: true,
      lengths: [100, 70, 3],
    },
    { what: "longer than a GPU's kernel takes, with lengths", B: 2, H: 1, N: 140, M: 140, E: 32, lengths: [140, 33] },
    { what: "sharpened", B: 2, H: 1, N: 4, M: 8, E: 4, gain: 20 },
    { what: "larger", B: 2, H: 4, N: 65, M: 70, E: 16, mask: { rows: 2, queries: 1, sees: padded([70, 33]) } },
    { what: "without rows", tags: ["sanitize"], B: 0, H: 2, N: 3, M: 4, E: 2 },
    { what: "without queries", B: 2, H: 2, N: 0, M: 4, E: 2 },
    {
      what: "of few queries over many keys, as a GPU's kernel takes them back",
      tags: ["sanitize", "cudnn"],
      B: 1,
      H: 1,
      N: 128,
      M: 1024,
      E: 64,
    },
    {
      what: "of few queries over many keys, of odd sizes",
      tags: ["sanitize", "cudnn"],
      B: 2,
      H: 1,
      N: 100,
      M: 1000,
      E: 32,
    },
    {
      what: "of one query over many keys, one key more than a block of its own takes",
      B: 2,
      H: 2,
      N: 1,
      M: 129,
      E: 64,
    },
    { what: "of few queries over many keys, in narrow heads, sharpened", B: 1, H: 2, N: 33, M: 190, E: 32, gain: 4 },
    {
      what: "of few queries over many keys, with padding, which a GPU's kernel does not take",
      B: 2,
      H: 1,
      N: 9,
      M: 150,
      E: 32,
      mask: { rows: 2, queries: 1, sees: padded([150, 33]) },
    },
    {
      what: "of few queries over many keys, in heads that a GPU's kernel does not take",
      B: 1,
      H: 1,
      N: 9,
      M: 150,
      E: 16,
    },
    { what: "of few queries over many keys, too long for so few heads", B: 1, H: 1, N: 3, M: 1025, E: 32 },
    { what: "with normed queries", B: 3, H: 2, N: 5, M: 7, E: 3, norm: "queries" },
    { what: "with normed keys", B: 3, H: 2, N: 5, M: 7, E: 3, norm: "keys" },
    {
      what: "with normed keys, of heads that a GPU's kernel takes",
      tags: ["sanitize"],
      B: 2,
      H: 3,
      N: 50,
      M: 37,
      E: 32,
      norm: "keys",
    },
    {
      what: "with normed queries and keys, of heads that a GPU's kernel takes, as large as it takes",
      tags: ["sanitize"],
      B: 4,
      H: 2,
      N: 128,
      M: 128,
      E: 64,
      lengths: [128, 100, 3, 0],
      norm: "both",
    },
    { what: "with normed queries, few over many keys", B: 2, H: 1, N: 33, M: 190, E: 32, norm: "queries" },
  ],
  inputs({ B, H, N, M, E, mask, causal = false, gain = 1, lengths, norm }, draw) {
    const seen =
      mask &&
      numbers(
        [mask.rows, 1, mask.queries, M],
        (at) => (mask.sees(Math.floor(at / M / mask.queries), Math.floor(at / M) % mask.queries, at % M) ? 1 : 0),
        "bool",
      );
    return [
      draw.numbers([B, H, N, E], gain),
      draw.numbers([B, H, M, E]),
      draw.numbers([B, H, M, E]),
      seen ?? null,
      Number(causal),
      lengths === undefined ? null : numbers([B], (b) => lengths[b]!, "int32"),
      Number(norm === "queries" || norm === "both"),
      Number(norm === "keys" || norm === "both"),
    ];
  },
  call: (q, k, v, mask, causal, lengths, normQueries, normKeys) =>
    callOperator("memformer::attention", q, k, v, mask, causal === 1, lengths, normQueries === 1, normKeys === 1),
  reference(q, k, v, mask, causal, lengths, normQueries, normKeys) {
    const [B, H, N, E] = q.shape as [number, number, number, number],
      M = k.shape[2]!,
      y = numbers([B, H, N, E]);
    const [rows, , queries] = mask === null ? [1, 1, 1] : mask.shape;
    for (let b = 0; b < B; b++)
      for (let h = 0; h < H; h++)
        for (let i = 0; i < N; i++) {
          const query = ((b * H + h) * N + i) * E,
            key = (j: number): number => ((b * H + h) * M + j) * E;
          const allowed = ((rows === 1 ? 0 : b) * queries! + (queries === 1 ? 0 : i)) * M;
          const seen = [...Array(M).keys()].filter(
            (j) =>
              (causal === 0 || j <= i) &&
              (lengths === null || j < Math.max(1, lengths.data[b]!)) &&
              (mask === null || mask.data[allowed + j] === 1),
          );
          const scaleOf = ({ data }: Numbers, row: number, norms: number): number => {
            const head = data.subarray(row, row + E);
            return norms === 1 ? 1 / Math.sqrt(head.reduce((sum, x) => sum + x * x, 0) / E + 1e-6) : 1;
          };
          const by = scaleOf(q, query, normQueries);
          const scores = seen.map((j) => {
            let sum = 0;
            for (let e = 0; e < E; e++) sum += q.data[query + e]! * k.data[key(j) + e]!;
            return (by * scaleOf(k, key(j), normKeys) * sum) / Math.sqrt(E);
          });
          const most = Math.max(...scores),
            weights = scores.map((score) => Math.exp(score - most));
          const total = weights.reduce((sum, weight) => sum + weight);
          for (let e = 0; e < E; e++) {
            for (const [n, j] of seen.entries()) y.data[query + e]! += (weights[n]! * v.data[key(j) + e]!) / total;
          }
        }
    return [y];
  },
  plain(q, k, v, mask, causal, lengths, normQueries, normKeys) {
    const seen =
      lengths === null
        ? mask
        : visibleKeys(
            lengths,
            applyOperator("aten::select.int", applyOperator("aten::select.int", k, 3, 0), 1, 0),
            causal === 1,
          );
    return callOperator(
      "aten::_scaled_dot_product_attention_math",
      normQueries === 1 ? normedHeads(q) : q,
      normKeys === 1 ? normedHeads(k) : k,
      v,
      seen,
      0,
      causal === 1 && seen === null,
    ).slice(0, 1);
  },
  leftToLibTorch: ({ N, M }, dtype) => dtype === "float32" && N * M > 128 * 128,
  misuses: [
    {
      what: "a query that is no (B, H, N, E)",
      code: "SHAPE",
      arguments: (...args) => args.with(0, numbers([6, 5, 3])),
      message: /^attention: q must have shape \(any, any, any, any\), got \[6, 5, 3\]$/,
    },
    {
      what: "keys of other heads",
      code: "SHAPE",
      arguments: (...args) => args.with(1, numbers([3, 1, 7, 3])),
      message: /^attention: k must have shape \(3, 2, any, 3\), got \[3, 1, 7, 3\]$/,
    },
    {
      what: "keys of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(1, numbers([3, 2, 7, 4])),
      message: /^attention: k must have shape \(3, 2, any, 3\), got \[3, 2, 7, 4\]$/,
    },
    {
      what: "values of other keys",
      code: "SHAPE",
      arguments: (...args) => args.with(2, numbers([3, 2, 6, 3])),
      message: /^attention: v must have shape \(3, 2, 7, 3\), got \[3, 2, 6, 3\]$/,
    },
    ...[
      [3, 1, 5, 6],
      [2, 1, 5, 7],
      [3, 2, 5, 7],
      [3, 1, 4, 7],
      [3, 1, 5, 1],
      [3, 7],
    ].map((shape) => ({
      what: `a mask of shape (${shape.join(", ")})`,
      code: "SHAPE" as const,
      arguments: (...args: Arguments) =>
        args.with(
          3,
          numbers(shape, () => 1, "bool"),
        ),
      message: new RegExp(`^attention: mask must have shape \\(3 or 1, 1, 5 or 1, 7\\), got \\[${shape.join(", ")}]$`),
    })),
    {
      what: "causal with other keys than queries",
      code: "SHAPE",
      arguments: (...args) => args.with(4, 1),
      message: /^attention: causal needs as many keys as queries, got 7 and 5$/,
    },
    {
      what: "lengths beside a mask",
      code: "CONFIG",
      arguments: (...args) =>
        args
          .with(
            3,
            numbers([3, 1, 5, 7], () => 1, "bool"),
          )
          .with(
            5,
            numbers([3], () => 2, "int32"),
          ),
      message: /^attention: takes a mask or lengths, got both$/,
    },
    {
      what: "lengths of other rows",
      code: "SHAPE",
      arguments: (...args) =>
        args.with(
          5,
          numbers([4], () => 2, "int32"),
        ),
      message: /^attention: lengths must have shape \(3\), got \[4\]$/,
    },
    {
      what: "lengths that are not int32",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          5,
          numbers([3], () => 2, "int64"),
        ),
      message: /^attention: lengths must be Int, got Long$/,
    },
    {
      what: "a mask that is not bool",
      code: "DTYPE",
      arguments: (...args) => args.with(3, numbers([3, 1, 5, 7])),
      message: /^attention: mask must be Bool, got Double$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          0,
          numbers([3, 2, 5, 3], () => 1, "int64"),
        ),
      message: /^attention: q must be float32, float64 or bfloat16, got Long$/,
    },
    {
      what: "keys of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          1,
          numbers([3, 2, 7, 3], () => 1, "int64"),
        ),
      message: /^attention: k must have q's dtype Double, got Long$/,
    },
    {
      what: "values of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          2,
          numbers([3, 2, 7, 3], () => 1, "int64"),
        ),
      message: /^attention: v must have q's dtype Double, got Long$/,
    },
  ],
};

opcheck(attention, () => {
  const call = (...args: (Tensor | number | null)[]): Tensor[] =>
    callOperator(attention.name, ...args.slice(0, 4), args[4] === 1, args[5] as Tensor | null);

  it("sees nothing of a key behind the mask, to the bit", async () => {
    const [q, k, v, mask, causal] = attention.inputs(attention.cases[4]!, new Draw(3));
    const [, H, M, E] = k.shape as [number, number, number, number];
    const seen = (at: number): boolean => mask!.data[Math.floor(at / (H * M * E)) * M + (Math.floor(at / E) % M)] === 1;
    const changed = (x: Numbers): Numbers => ({ ...x, data: x.data.map((y, at) => (seen(at) ? y : 1e3 * (y + 1))) });
    const [first] = await run(call, [q, k, v, mask, causal]),
      [again] = await run(call, [q, changed(k), changed(v), mask, causal]);
    expect(again!.data).to.deep.equal(first!.data);
  });

  it("sees nothing of a key beyond the length, to the bit", async () => {
    const at = attention.cases.findIndex(({ what }) => what === "with lengths");
    const [q, k, v, mask, causal, lengths] = attention.inputs(attention.cases[at]!, new Draw(3));
    const [, H, M, E] = k.shape as [number, number, number, number];
    const seen = (i: number): boolean =>
      Math.floor(i / E) % M < Math.max(1, lengths!.data[Math.floor(i / (H * M * E))]!);
    const changed = (x: Numbers): Numbers => ({ ...x, data: x.data.map((y, i) => (seen(i) ? y : 1e3 * (y + 1))) });
    const [first] = await run(call, [q, k, v, mask, causal, lengths]),
      [again] = await run(call, [q, changed(k), changed(v), mask, causal, lengths]);
    expect(again!.data).to.deep.equal(first!.data);
  });

  it("does not overflow where the scores are large", async () => {
    const { data, ...rest } = attention.inputs(attention.cases[0]!, new Draw(4))[0];
    const [, ...others] = attention.inputs(attention.cases[0]!, new Draw(4));
    const large: Arguments = [{ ...rest, data: data.map((value) => 5000 * value) }, ...others];
    const [y] = await run(call, large),
      [expected] = attention.reference(...large);
    expect(y!.data.every((value, i) => Math.abs(value - expected!.data[i]!) < 1e-9)).to.be.true;
  });
});
