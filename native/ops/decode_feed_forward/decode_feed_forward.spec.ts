/** The feed-forward layer of a decoding step: it equals its parts one after the other, to the bit, for any rows. */
import { expect } from "chai";
import { deviceEvents } from "../../../bench/support/kernels.ts";
import { applyOperator, callOperator, Tensor } from "../../../lib/index.ts";
import {
  cast,
  expectRefused,
  expectSame,
  expectSameRows,
  here,
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
import { describeOnGpu, toGpu } from "../../../test/support/gpu.ts";

interface Shape {
  readonly R: number;
  readonly D: number;
  readonly F: number;
}

interface Options {
  /** How the branch of the layer before comes. */
  readonly branch: "none" | "whole" | "shares";
  readonly biased: boolean;
  readonly settled: boolean;
}

const usual: Options = { branch: "whole", biased: true, settled: false };
const options: readonly Options[] = [
  usual,
  { ...usual, branch: "shares" },
  { ...usual, branch: "shares", settled: true },
  { ...usual, branch: "none" },
  { ...usual, branch: "shares", biased: false },
];

function drawArguments({ R, D, F }: Shape, dtype: DType, place: Place) {
  const master: DType = dtype === "float64" ? "float64" : "float32";
  const make = maker(dtype, place);
  return {
    x: make(21, [R, 1, D], 1, master),
    branch: make(22, [R, 1, D]),
    shares: make(23, [R, 1, 8, D], 0.3, "float32"),
    branchBias: make(24, [D]),
    normWeight: make(25, [D], 2, master),
    normBias: make(26, [D], 1, master),
    up: make(27, [F, D], 2 / Math.sqrt(D)),
    upBias: make(28, [F]),
    down: make(29, [D, F], 1 / Math.sqrt(D)),
  };
}

const argumentsOf = once(drawArguments);

interface Made {
  readonly sum: Float64Array;
  readonly y: Float64Array;
  /** Whether the product came in shares. */
  readonly shared: boolean;
}

/** Rows `rows` (all) of a case by the operator or by its parts. */
async function made(
  by: "one" | "parts",
  shape: Shape,
  dtype: DType,
  how: Options,
  place: Place,
  rows: readonly number[] = Array.from({ length: shape.R }, (_, r) => r),
): Promise<Made> {
  const given = argumentsOf(shape, dtype, place),
    pick = rowPicker(rows, place),
    { branchBias, normWeight, normBias, up, upBias, down } = given,
    branched = how.branch !== "none";
  const branch = how.branch === "shares" ? pick(given.shares) : how.branch === "whole" ? pick(given.branch) : null,
    first = [
      pick(given.x),
      branch,
      branched && how.biased ? branchBias : null,
      normWeight,
      normBias,
      up,
      how.biased ? upBias : null,
    ] as const;
  let sum: Tensor, product: Tensor;
  if (by === "one") {
    [sum, product] = callOperator("memformer::decode_feed_forward", ...first, down, how.settled) as [Tensor, Tensor];
  } else {
    let hidden: Tensor;
    [sum, hidden] = callOperator("memformer::decode_normed_linear", ...first, true, how.settled) as [Tensor, Tensor];
    product = applyOperator("memformer::decode_linear", hidden, down, null, false, how.settled);
  }
  const made = await wholeProduct(product, 3, dtype);
  const [sums, y] = await Promise.all([sum, made.product].map(numbers));
  return { sum: sums!, y: y!, shared: made.shared };
}

async function checkParts(shapes: readonly Shape[], dtypes: readonly DType[], place: Place): Promise<void> {
  for (const shape of shapes)
    for (const dtype of dtypes)
      for (const how of options) {
        const what = JSON.stringify({ dtype, ...shape, ...how });
        await expectSame((by) => made(by, shape, dtype, how, place), ["sum", "y"], what);
      }
}

/** Rows alone and among others, of numbers of rows that take different kernels. */
async function checkRows(shape: Omit<Shape, "R">, dtypes: readonly DType[], place: Place): Promise<void> {
  const all = { ...shape, R: 150 };
  for (const dtype of dtypes)
    for (const branch of ["whole", "shares"] as const) {
      const how = { ...usual, branch };
      const make = async (rows?: readonly number[]): Promise<Made> => made("one", all, dtype, how, place, rows);
      await expectSameRows(make, ["sum", "y"], shape.D, `${branch} ${dtype}`);
    }
}

const small: readonly Shape[] = [
  { R: 1, D: 2, F: 3 },
  { R: 3, D: 12, F: 7 },
  { R: 5, D: 32, F: 128 },
  { R: 0, D: 16, F: 64 },
];

/** Those that are one kernel on a GPU, and neighbours that are not: more rows, other widths. */
const large: readonly Shape[] = [
  { R: 1, D: 512, F: 2048 },
  { R: 3, D: 512, F: 2048 },
  { R: 8, D: 512, F: 2048 },
  { R: 1, D: 256, F: 1024 },
  { R: 8, D: 256, F: 1024 },
  { R: 9, D: 512, F: 2048 },
  { R: 2, D: 512, F: 1024 },
  { R: 2, D: 128, F: 512 },
];

describe("memformer::decode_feed_forward", function () {
  this.timeout(60_000);

  it("equals its parts, to the bit", () => checkParts(small, ["float64", "float32", "bfloat16"], here));

  it("gives a row the same bits among any number of others", () => checkRows({ D: 16, F: 24 }, ["bfloat16"], here));

  it("refuses what does not fit, by name", async () => {
    interface Change {
      readonly x?: Tensor;
      readonly branch?: Tensor;
      readonly up?: Tensor;
      readonly upBias?: Tensor;
      readonly down?: Tensor;
    }
    const layer = (change: Change): Tensor =>
      callOperator(
        "memformer::decode_feed_forward",
        change.x ?? zeros(2, 4),
        change.branch ?? null,
        null,
        zeros(4),
        zeros(4),
        change.up ?? zeros(6, 4),
        change.upBias ?? null,
        change.down ?? zeros(4, 6),
      )[1]!;
    expect(await numbers(layer({}))).to.deep.equal(new Float64Array(8));
    const cases: [Change, string, RegExp][] = [
      [{ x: Tensor.from(new Int32Array(8), [2, 4]) }, "DTYPE", /decode_feed_forward: x must be float32/],
      [{ up: zeros(6, 5) }, "SHAPE", /decode_feed_forward: up_weight must have shape \(any, 4\)/],
      [{ down: zeros(6, 4) }, "SHAPE", /decode_feed_forward: down_weight must have shape \(4, 6\)/],
      [{ down: cast(new Float64Array(24), [4, 6], "float32") }, "DTYPE", /down_weight must have up_weight's dtype/],
      [{ upBias: zeros(4) }, "SHAPE", /bias must have shape \(6\)/],
      [{ branch: zeros(2, 7, 4) }, "DTYPE", /shares must be/],
    ];
    for (const [change, code, message] of cases) await expectRefused(() => layer(change), code, message);
  });
});

describeOnGpu("memformer::decode_feed_forward", function () {
  this.timeout(300_000);

  it("equals its parts, to the bit", () => checkParts(large, ["bfloat16", "float16"], toGpu));

  it("equals its parts where it is not one kernel", () => checkParts(small, ["float64", "float32", "bfloat16"], toGpu));

  it("is one kernel of few rows, in shares, where widths and device allow it", async function () {
    if (!mergesFewRows()) this.skip();
    for (const shape of large) {
      let shared = false;
      const events = await deviceEvents(async () => {
        ({ shared } = await made("one", shape, "bfloat16", usual, toGpu));
      });
      const what = JSON.stringify(shape),
        wanted = shape.R <= 8 && shape.D >= 256 && shape.F === 4 * shape.D;
      expect(shared, what).to.equal(wanted);
      const kernels = events.filter(({ name }) => name.includes("decode_feed_forward_kernel"));
      expect(kernels.length, what).to.equal(wanted ? 1 : 0);
    }
  });

  for (const D of [256, 512])
    it(`gives a row the same bits among any number of others: width ${D}`, () =>
      checkRows({ D, F: 4 * D }, ["bfloat16", "float16"], toGpu));
});
