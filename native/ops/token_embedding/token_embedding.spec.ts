import { expect } from "chai";
import { applyOperator, callOperator, type Tensor } from "../../../lib/index.ts";
import { opcheck } from "../../../test/support/opcheck.ts";
import { errorOf } from "../../../test/support/opcheck-compare.ts";
import { download, Draw, type Numbers, numbers, upload } from "../../../test/support/opcheck-numbers.ts";
import { gradients } from "../../../test/support/opcheck-run.ts";
import type { OperatorSpec, SpecCase } from "../../../test/support/opcheck-spec.ts";

interface Case extends SpecCase {
  readonly B: number;
  readonly T: number;
  readonly V: number;
  readonly D: number;
  /** Every how manieth token is padding. Default: none. */
  readonly padding?: number;
}

type Arguments = [tokens: Numbers, weight: Numbers, sink: Numbers | null];

export const tokenEmbedding: OperatorSpec<Case, Arguments> = {
  name: "memformer::token_embedding",
  cases: [
    { what: "of odd sizes", tags: ["sanitize"], B: 3, T: 5, V: 11, D: 7, padding: 4 },
    { what: "of one token", B: 1, T: 1, V: 1, D: 1 },
    { what: "of tokens that all are the same", B: 2, T: 9, V: 1, D: 3 },
    { what: "of padding alone", B: 2, T: 3, V: 4, D: 8, padding: 1 },
    { what: "larger, with rare and common tokens", B: 4, T: 300, V: 64, D: 130, padding: 3 },
    { what: "of a vocabulary larger than the text", B: 2, T: 8, V: 1000, D: 64 },
    { what: "without rows", tags: ["sanitize"], B: 0, T: 4, V: 3, D: 2 },
    { what: "without tokens", B: 2, T: 0, V: 3, D: 2 },
  ],
  inputs({ B, T, V, D, padding = Infinity }, draw) {
    const token = (i: number): number => (i % padding === padding - 1 ? -1 - draw.below(3) : draw.below(V));
    return [numbers([B, T], token, "int64"), draw.numbers([V, D]), null];
  },
  reference(tokens, weight) {
    const D = weight.shape[1]!;
    const row = (n: number): number => Math.max(tokens.data[n]!, 0) * D;
    return [numbers([...tokens.shape, D], (i) => weight.data[row(Math.floor(i / D)) + (i % D)]!)];
  },
  plain: (tokens, weight) => [applyOperator("aten::embedding", weight, applyOperator("aten::clamp_min", tokens, 0))],
  misuses: [
    {
      what: "a token outside the vocabulary",
      code: "TOKEN_RANGE",
      arguments: (_, weight, sink) => [numbers([3, 5], (i) => (i === 7 ? 11 : 0), "int64"), weight, sink],
      message: /^token 11 is out of the vocabulary of 11$/,
    },
    {
      what: "tokens of another dtype",
      code: "DTYPE",
      arguments: (_, weight, sink) => [numbers([3, 5], () => 0, "int32"), weight, sink],
      message: /^token_embedding: tokens must be Long, got Int$/,
    },
    {
      what: "tokens that are no (B, T)",
      code: "SHAPE",
      arguments: (_, weight, sink) => [numbers([3], () => 0, "int64"), weight, sink],
      message: /^token_embedding: tokens must have shape \(any, any\), got \[3\]$/,
    },
    {
      what: "a weight that is no (V, D)",
      code: "SHAPE",
      arguments: (tokens, _, sink) => [tokens, numbers([11]), sink],
      message: /^token_embedding: weight must have shape \(any, any\), got \[11\]$/,
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (tokens, _, sink) => [tokens, numbers([11, 7], () => 1, "int64"), sink],
      message: /^token_embedding: weight must be float32, float64 or bfloat16, got Long$/,
    },
    {
      what: "a sink of another width",
      code: "SHAPE",
      arguments: (tokens, weight) => [tokens, weight, numbers([11, 6])],
      message: /^token_embedding: sink must have shape \(11, 7\), got \[11, 6\]$/,
    },
    {
      what: "a sink of another dtype",
      code: "DTYPE",
      arguments: (tokens, weight) => [tokens, weight, numbers([11, 7], () => 0, "int64")],
      message: /^token_embedding: sink must be Double, got Long$/,
    },
  ],
};

opcheck(tokenEmbedding, () => {
  const call = (...args: (Tensor | number | null)[]): Tensor[] => callOperator(tokenEmbedding.name, ...args);

  it("adds the gradient of its weight to the sink, to what that holds", async () => {
    const draw = new Draw(5),
      args = tokenEmbedding.inputs(tokenEmbedding.cases[4]!, draw);
    const cotangents = [draw.numbers([4, 300, 130])];
    const [sent] = await gradients(call, args, cotangents);
    const held = numbers([64, 130], (i) => i % 10),
      sink = upload(held, "float64");
    const [then] = await gradients((...given) => call(...given.with(2, sink)), args, cotangents);
    expect(then!.data.every((value) => value === 0)).to.be.true;
    expect(
      errorOf(
        (await download(sink)).data,
        held.data.map((value, i) => value + sent!.data[i]!),
      ),
    ).to.be.below(1e-12);
    sink.dispose();
  });
});
