/** limit_rows against plain loops, on the CPU and, where there is one, on a GPU. */
import { expect } from "chai";
import { applyOperator, callOperator, tidy, type Tensor } from "../../../lib/index.ts";
import { describeOnGpu, toGpu } from "../../../test/support/gpu.ts";
import {
  download,
  Draw,
  EPSILON,
  numbers,
  rounded,
  upload,
  type FloatingDType,
} from "../../../test/support/opcheck-numbers.ts";

interface Case {
  readonly shape: readonly number[];
  /** Of row b's numbers. */
  readonly gains: readonly number[];
  readonly decay: number;
  readonly limit: number;
}

const cases: readonly Case[] = [
  { shape: [3, 2, 5], gains: [1, 1, 40], decay: 1, limit: 2 },
  { shape: [1, 7], gains: [3], decay: 0.5, limit: 2 },
  { shape: [4, 33, 64], gains: [1, 9, 0, 2], decay: 0.75, limit: 1 },
  { shape: [5, 128, 160], gains: [1, 1, 30, 1, 2], decay: 1, limit: 0.25 },
  { shape: [2, 9001], gains: [5, 1], decay: 1, limit: 1.5 },
];

function suite(move: (x: Tensor) => Tensor, dtypes: readonly FloatingDType[]): void {
  for (const dtype of dtypes)
    for (const { shape, gains, decay, limit } of cases)
      it(`${dtype}, (${shape.join(", ")}), limit ${limit}`, async () => {
        const draw = new Draw(7),
          n = shape.slice(1).reduce((product, size) => product * size, 1),
          { data } = rounded(
            numbers(shape, (i) => gains[Math.floor(i / n)]! * draw.uniform()),
            dtype,
          );
        const lengths = gains.map((_, b) => Math.hypot(...data.subarray(b * n, (b + 1) * n))),
          most = (limit * lengths.reduce((sum, length) => sum + length, 0)) / gains.length;
        const x = move(
            upload(
              numbers(shape, (i) => data[i]!),
              dtype,
            ),
          ),
          y = applyOperator("memformer::limit_rows", x, decay, limit);
        const found = await download(y);
        expect(found).to.deep.include({ shape: [...shape], dtype });
        const scale = Math.max(...data.map(Math.abs));
        found.data.forEach((value, i) => {
          const length = lengths[Math.floor(i / n)]!,
            wanted = decay * data[i]! * (length > most ? most / length : 1);
          expect(value, String(i)).to.be.closeTo(wanted, 8 * EPSILON[dtype] * scale);
        });
        for (const tensor of [x, y]) tensor.dispose();
      });

  it("takes no rows, and rows of nothing", async () => {
    for (const shape of [
      [0, 3],
      [2, 0],
    ]) {
      const x = move(upload(numbers(shape), "float32")),
        y = applyOperator("memformer::limit_rows", x, 1, 2);
      expect((await download(y)).shape).to.deep.equal(shape);
      for (const tensor of [x, y]) tensor.dispose();
    }
  });
}

describe("memformer::limit_rows", () => {
  suite((x) => x, ["float32", "float64", "bfloat16"]);

  it("refuses a limit that limits to nothing", async () => {
    for (const [decay, limit, message] of [
      [1, 0, /^limit_rows: limit must be a number above 0, got 0$/],
      [NaN, 1, /^limit_rows: decay must be a number, got nan$/],
    ] as const) {
      const [y] = tidy(() => callOperator("memformer::limit_rows", upload(numbers([2, 2]), "float32"), decay, limit));
      try {
        await y!.data();
        expect.fail("it is not refused");
      } catch (error) {
        expect(error).to.have.property("code", "ERR_MEMFORMER_CONFIG");
        expect((error as Error).message).to.match(message);
      } finally {
        y!.dispose();
      }
    }
  });
});

describeOnGpu("memformer::limit_rows on the GPU", () => {
  suite(toGpu, ["float32", "float64", "bfloat16", "float16"]);
});
