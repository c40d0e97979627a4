/** Attention and the product behind it: each equals its parts one after the other, to the bit, for any rows. */
import { expect } from "chai";
import { deviceEvents } from "../../../bench/support/kernels.ts";
import { applyOperator, type Tensor } from "../../../lib/index.ts";
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
  readonly rotates: boolean;
  /** Added to the scores of "cross". */
  readonly biased: boolean;
  readonly settled: boolean;
}

const self: Options = { kind: "self", rotates: true, biased: false, settled: false };
const cross: Options = { ...self, kind: "cross" };
const options: readonly Options[] = [
  self,
  { ...self, settled: true },
  { ...self, rotates: false },
  cross,
  { ...cross, settled: true },
  { ...cross, biased: true },
];

function drawArguments(shape: AttentionShape, dtype: DType, place: Place) {
  const { R, H, E, N } = shape,
    D = H * E,
    sums: DType = dtype === "float64" ? "float64" : "float32";
  const make = maker(dtype, place);
  return {
    qkv: make(26, [R, 3 * D]),
    q: make(27, [R, D]),
    weight: make(28, [D, D], 1 / Math.sqrt(D)),
    ...drawCaches(shape, dtype, place),
    bias: make(32, [R, H, N], 1, sums),
  };
}

const drawnOnce = once(drawArguments);

interface Made {
  readonly y: Float64Array;
  readonly keys: Float64Array;
  readonly values: Float64Array;
  /** Whether the product came in shares. */
  readonly shared: boolean;
}

/** Rows `rows` (all) of a case by the operator or by its parts: the product, and the caches behind it. */
async function made(
  by: "one" | "parts",
  shape: AttentionShape,
  dtype: DType,
  how: Options,
  place: Place,
  rows: readonly number[] = Array.from({ length: shape.R }, (_, r) => r),
): Promise<Made> {
  const { S, N } = shape,
    given = ownCaches(drawnOnce(shape, dtype, place)),
    pick = rowPicker(rows, place),
    slots = place(int32(rows.map((r) => slotOf(r, S)))),
    positions = place(int32(rows.map((r) => positionOf(r, N) + (how.kind === "cross" ? 1 : 0)))),
    { keys, values, weight } = given;
  const attention =
    how.kind === "self"
      ? [
          pick(given.qkv),
          how.rotates ? given.cos : null,
          how.rotates ? given.sin : null,
          slots,
          positions,
          keys,
          values,
        ]
      : [pick(given.q), keys, values, slots, positions, how.biased ? pick(given.bias) : null];
  const name = how.kind === "self" ? "decode_self_attention" : "decode_attention";
  let product: Tensor;
  if (by === "one") {
    product = applyOperator(`memformer::${name}_linear`, ...attention, weight, how.settled);
  } else {
    const read = applyOperator(`memformer::${name}`, ...attention, how.settled);
    product = applyOperator("memformer::decode_linear", read, weight, null, false, how.settled);
  }
  const made = await wholeProduct(product, 2, dtype);
  const caches = rows.length === shape.R ? [keys, values] : []; // else nobody looks at them
  const all = await Promise.all([made.product, ...caches].map(numbers)),
    none = new Float64Array();
  return { y: all[0]!, keys: all[1] ?? none, values: all[2] ?? none, shared: made.shared };
}

async function checkParts(shapes: readonly AttentionShape[], dtypes: readonly DType[], place: Place): Promise<void> {
  for (const shape of shapes)
    for (const dtype of dtypes)
      for (const how of options) {
        const what = JSON.stringify({ dtype, ...shape, ...how });
        await expectSame((by) => made(by, shape, dtype, how, place), ["y", "keys", "values"], what);
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
      await expectSameRows(make, ["y"], shape.H * shape.E, `${how.kind} ${dtype}`);
    }
}

const small: readonly AttentionShape[] = [
  { R: 1, H: 1, E: 2, S: 1, N: 1 },
  { R: 3, H: 3, E: 4, S: 8, N: 5 },
  { R: 5, H: 2, E: 16, S: 6, N: 40 },
  { R: 0, H: 2, E: 8, S: 2, N: 3 },
];

describe("memformer::decode_attention_linear, memformer::decode_self_attention_linear", function () {
  this.timeout(60_000);

  it("equal their parts, to the bit", () => checkParts(small, ["float64", "float32", "bfloat16"], here));

  it("give a row the same bits among any number of others", () => checkRows({ H: 2, E: 8, N: 9 }, ["bfloat16"], here));

  it("refuse what does not fit, by name", async () => {
    interface Change {
      readonly q?: Tensor;
      readonly weight?: Tensor;
      readonly keys?: Tensor;
      readonly positions?: Tensor;
    }
    const read = (change: Change): Tensor =>
      applyOperator(
        "memformer::decode_attention_linear",
        change.q ?? zeros(2, 8),
        change.keys ?? zeros(2, 2, 3, 4),
        zeros(2, 2, 3, 4),
        int32([0, 1]),
        change.positions ?? int32([1, 2]),
        null,
        change.weight ?? zeros(8, 8),
      );
    const own = (change: Change): Tensor =>
      applyOperator(
        "memformer::decode_self_attention_linear",
        change.q ?? zeros(2, 24),
        null,
        null,
        int32([0, 1]),
        change.positions ?? int32([0, 1]),
        change.keys ?? zeros(2, 2, 3, 4),
        zeros(2, 2, 3, 4),
        change.weight ?? zeros(8, 8),
      );
    for (const call of [read, own]) expect(await numbers(call({}))).to.deep.equal(new Float64Array(16));
    const cases: [typeof read, Change, string, RegExp][] = [
      [read, { weight: zeros(8, 4) }, "SHAPE", /decode_attention_linear: weight must have shape \(8, 8\)/],
      [read, { weight: cast(new Float64Array(64), [8, 8], "float32") }, "DTYPE", /weight must have q's dtype/],
      [read, { q: zeros(2, 7) }, "SHAPE", /decode_attention: q must have shape \(any, 8\)/],
      [read, { positions: int32([0]) }, "SHAPE", /lengths must have shape \(2\)/],
      [own, { weight: zeros(24, 8) }, "SHAPE", /decode_self_attention_linear: weight must have shape \(8, 8\)/],
      [own, { keys: zeros(2, 8) }, "SHAPE", /decode_self_attention_linear: keys must have shape/],
      [own, { positions: int32([0, 3]) }, "CONFIG", /row 1 is to be written at position 3/],
    ];
    for (const [call, change, code, message] of cases) await expectRefused(() => call(change), code, message);
  });
});

describeOnGpu("memformer::decode_attention_linear, memformer::decode_self_attention_linear", function () {
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
          wanted = shape.R <= 8 && shape.E === 64 && shape.H <= 8;
        expect(shared, what).to.equal(wanted);
        const kernels = events.filter(({ name }) => name.includes("decode_attention_linear_kernel"));
        expect(kernels.length, what).to.equal(wanted ? 1 : 0);
      }
  });

  for (const H of [4, 8])
    it(`give a row the same bits among any number of others: ${H} heads`, () =>
      checkRows({ H, E: 64, N: 140 }, ["bfloat16", "float16"], toGpu));
});
