/** An attention layer of a decoding step: each equals its parts one after the other, to the bit, for any rows. */
import { expect } from "chai";
import { deviceEvents } from "../../../bench/support/kernels.ts";
import { applyOperator, callOperator, type Tensor } from "../../../lib/index.ts";
import {
  cast,
  expectRefused,
  expectSame,
  expectSameRows,
  here,
  int32,
  maker,
  mergesFewRows,
  numbers,
  once,
  rowPicker,
  wholeProduct,
  zeros,
  type DType,
  type Place,
} from "../../../test/support/decoding-rows.ts";
import {
  drawCaches,
  largeAttentions,
  ownCaches,
  positionOf,
  slotOf,
  type AttentionShape,
} from "../../../test/support/decoding-attention.ts";
import { describeOnGpu, toGpu } from "../../../test/support/gpu.ts";

interface Options {
  readonly kind: "self" | "cross";
  /** How the branch of the layer before comes. */
  readonly branch: "none" | "whole" | "shares";
  readonly biased: boolean;
  readonly rotates: boolean;
  readonly normsHeads: boolean;
  readonly settled: boolean;
}

const self: Options = {
  kind: "self",
  branch: "shares",
  biased: true,
  rotates: true,
  normsHeads: false,
  settled: false,
};
const cross: Options = { ...self, kind: "cross" };
const options: readonly Options[] = [self, cross].flatMap((usual) => [
  usual,
  { ...usual, settled: true },
  { ...usual, branch: "whole" },
  { ...usual, normsHeads: true },
  { ...usual, branch: "none", biased: false, rotates: false },
]);

function drawArguments(shape: AttentionShape, dtype: DType, place: Place) {
  const { R, H, E } = shape,
    D = H * E,
    wide: DType = dtype === "float64" ? "float64" : "float32";
  const make = maker(dtype, place);
  return {
    x: make(21, [R, 1, D], 1, wide),
    branch: make(22, [R, 1, D]),
    shares: make(23, [R, 1, 8, D], 0.3, "float32"),
    branchBias: make(24, [D]),
    normWeight: make(25, [D], 2, wide),
    normBias: make(26, [D], 1, wide),
    qkv: make(27, [3 * D, D], 2 / Math.sqrt(D)),
    qkvBias: make(28, [3 * D]),
    query: make(34, [D, D], 2 / Math.sqrt(D)),
    queryBias: make(35, [D]),
    weight: make(36, [D, D], 1 / Math.sqrt(D)),
    ...drawCaches(shape, dtype, place),
  };
}

const drawnOnce = once(drawArguments);

interface Made {
  readonly sum: Float64Array;
  readonly y: Float64Array;
  readonly keys: Float64Array;
  readonly values: Float64Array;
  /** Whether the product came in shares. */
  readonly shared: boolean;
}

/** Rows `rows` (all) of a case by the operator or by its parts: stream, branch, and the caches behind it. */
async function made(
  by: "one" | "parts",
  shape: AttentionShape,
  dtype: DType,
  how: Options,
  place: Place,
  rows: readonly number[] = Array.from({ length: shape.R }, (_, r) => r),
): Promise<Made> {
  const { S, N, H, E } = shape,
    given = ownCaches(drawnOnce(shape, dtype, place)),
    { keys, values } = given,
    pick = rowPicker(rows, place),
    slots = place(int32(rows.map((r) => slotOf(r, S)))),
    own = how.kind === "self",
    positions = place(int32(rows.map((r) => positionOf(r, N) + (own ? 0 : 1)))),
    branched = how.branch !== "none",
    projection = own ? given.qkv : given.query,
    projectionBias = own ? given.qkvBias : given.queryBias;
  const normed = [
      pick(given.x),
      how.branch === "shares" ? pick(given.shares) : how.branch === "whole" ? pick(given.branch) : null,
      branched && how.biased ? given.branchBias : null,
      given.normWeight,
      given.normBias,
      projection,
      how.biased ? projectionBias : null,
    ] as const,
    angles = how.rotates ? ([given.cos, given.sin] as const) : ([null, null] as const),
    read = own ? [...angles, slots, positions, keys, values] : [keys, values, slots, positions],
    name = own ? "decode_self_attention" : "decode_attention";
  let sum: Tensor, product: Tensor;
  if (by === "one") {
    [sum, product] = callOperator(
      `memformer::${name}_layer`,
      ...normed,
      ...read,
      given.weight,
      how.normsHeads,
      how.settled,
    ) as [Tensor, Tensor];
  } else {
    let projected: Tensor;
    [sum, projected] = callOperator("memformer::decode_normed_linear", ...normed, false, how.settled) as [
      Tensor,
      Tensor,
    ];
    const kinds = own ? 3 : 1;
    if (how.normsHeads && rows.length > 0)
      applyOperator("memformer::head_norm_in_place", projected, E, kinds * H, own ? 2 * H : H, 1);
    const flat = applyOperator("aten::view", projected, [rows.length, kinds * H * E]),
      unbiased = own ? [] : [null];
    const attended = applyOperator(`memformer::${name}`, flat, ...read, ...unbiased, how.settled);
    product = applyOperator("memformer::decode_linear", attended, given.weight, null, false, how.settled);
  }
  const made = await wholeProduct(product, 2, dtype);
  const caches = rows.length === shape.R ? [keys, values] : []; // else nobody looks at them
  const all = await Promise.all([sum, made.product, ...caches].map(numbers)),
    none = new Float64Array();
  return { sum: all[0]!, y: all[1]!, keys: all[2] ?? none, values: all[3] ?? none, shared: made.shared };
}

async function checkParts(shapes: readonly AttentionShape[], dtypes: readonly DType[], place: Place): Promise<void> {
  for (const shape of shapes)
    for (const dtype of dtypes)
      for (const how of options) {
        if (how.branch === "shares" && dtype === "float64") continue; // shares are of float32
        const what = JSON.stringify({ dtype, ...shape, ...how });
        await expectSame((by) => made(by, shape, dtype, how, place), ["sum", "y", "keys", "values"], what);
      }
}

/** Rows alone and among others, of numbers of rows that take different kernels. */
async function checkRows(
  shape: Omit<AttentionShape, "R" | "S">,
  dtypes: readonly DType[],
  place: Place,
): Promise<void> {
  const all = { ...shape, R: 150, S: 150 };
  for (const dtype of dtypes)
    for (const how of [self, cross]) {
      const make = async (rows?: readonly number[]): Promise<Made> => made("one", all, dtype, how, place, rows);
      await expectSameRows(make, ["sum", "y"], shape.H * shape.E, `${how.kind} ${dtype}`);
    }
}

const small: readonly AttentionShape[] = [
  { R: 1, H: 1, E: 2, S: 1, N: 1 },
  { R: 3, H: 3, E: 4, S: 8, N: 5 },
  { R: 0, H: 2, E: 8, S: 2, N: 3 },
];

describe("memformer::decode_attention_layer, memformer::decode_self_attention_layer", function () {
  this.timeout(60_000);

  it("equal their parts, to the bit", () => checkParts(small, ["float64", "float32", "bfloat16"], here));

  it("give a row the same bits among any number of others", () => checkRows({ H: 2, E: 8, N: 9 }, ["bfloat16"], here));

  it("refuse what does not fit, by name", async () => {
    interface Change {
      readonly x?: Tensor;
      readonly projection?: Tensor;
      readonly keys?: Tensor;
      readonly weight?: Tensor;
      readonly positions?: Tensor;
      readonly branchBias?: Tensor;
    }
    const first = (change: Change, kinds: number) =>
      [
        change.x ?? zeros(2, 1, 8),
        null,
        change.branchBias ?? null,
        zeros(8),
        zeros(8),
        change.projection ?? zeros(kinds * 8, 8),
        null,
      ] as const;
    const read = (change: Change): Tensor[] =>
      callOperator(
        "memformer::decode_attention_layer",
        ...first(change, 1),
        change.keys ?? zeros(2, 2, 3, 4),
        zeros(2, 2, 3, 4),
        int32([0, 1]),
        change.positions ?? int32([1, 2]),
        change.weight ?? zeros(8, 8),
      );
    const own = (change: Change): Tensor[] =>
      callOperator(
        "memformer::decode_self_attention_layer",
        ...first(change, 3),
        null,
        null,
        int32([0, 1]),
        change.positions ?? int32([0, 1]),
        change.keys ?? zeros(2, 2, 3, 4),
        zeros(2, 2, 3, 4),
        change.weight ?? zeros(8, 8),
      );
    for (const call of [read, own]) expect(await numbers(call({})[1]!)).to.deep.equal(new Float64Array(16));
    const cases: [typeof read, Change, string, RegExp][] = [
      [read, { weight: zeros(8, 4) }, "SHAPE", /decode_attention_layer: weight must have shape \(8, 8\)/],
      [read, { weight: cast(new Float64Array(64), [8, 8], "float32") }, "DTYPE", /weight must have query_weight's/],
      [read, { projection: zeros(24, 8) }, "SHAPE", /query_weight must have shape \(8, 8\)/],
      [read, { x: zeros(2, 1, 7) }, "SHAPE", /decode_attention_layer: x must have shape \(\.\.\., 8\)/],
      [read, { positions: int32([0]) }, "SHAPE", /lengths must have shape \(2\)/],
      [read, { branchBias: zeros(8) }, "CONFIG", /branch_bias needs a branch/],
      [own, { projection: zeros(8, 8) }, "SHAPE", /decode_self_attention_layer: qkv_weight must have shape \(24, 8\)/],
      [own, { keys: zeros(2, 8) }, "SHAPE", /decode_self_attention_layer: keys must have shape/],
      [own, { positions: int32([0, 3]) }, "CONFIG", /row 1 is to be written at position 3/],
    ];
    for (const [call, change, code, message] of cases) await expectRefused(() => call(change)[1]!, code, message);
  });
});

describeOnGpu("memformer::decode_attention_layer, memformer::decode_self_attention_layer", function () {
  this.timeout(300_000);

  it("equal their parts, to the bit", () => checkParts(largeAttentions, ["bfloat16", "float16"], toGpu));

  it("equal their parts where they are not one kernel", () =>
    checkParts(small, ["float64", "float32", "bfloat16"], toGpu));

  it("are one kernel of few rows, in shares, where heads, width and device allow it", async function () {
    if (!mergesFewRows()) this.skip();
    for (const shape of largeAttentions)
      for (const how of [self, cross]) {
        let shared = false;
        const events = await deviceEvents(async () => {
          ({ shared } = await made("one", shape, "bfloat16", how, toGpu));
        });
        const what = `${how.kind}: ${JSON.stringify(shape)}`,
          fits = shape.E === 64 && shape.H <= 8,
          wanted = fits && shape.R <= 4;
        expect(shared, what).to.equal(fits && shape.R <= 8);
        const kernels = events.filter(({ name }) => name.includes("decode_attention_layer_kernel"));
        expect(kernels.length, what).to.equal(wanted ? 1 : 0);
      }
  });

  for (const H of [4, 8])
    it(`give a row the same bits among any number of others: ${H} heads`, () =>
      checkRows({ H, E: 64, N: 140 }, ["bfloat16", "float16"], toGpu));
});
