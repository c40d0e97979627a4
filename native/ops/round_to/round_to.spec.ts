/** round_to against the two conversions that it is, to the bit, on the CPU and, where there is one, on a GPU. */
import { expect } from "chai";
import { applyOperator, callOperator, tidy, type Tensor } from "../../../lib/index.ts";
import { describeOnGpu, toGpu } from "../../../test/support/gpu.ts";
import {
  download,
  Draw,
  type FloatingDType,
  numbers,
  SCALAR_TYPE,
  rounded,
  upload,
} from "../../../test/support/opcheck-numbers.ts";

const SHAPES = [[3, 5], [1], [], [0, 4], [2, 128, 64], [7, 131]];

function suite(move: (x: Tensor) => Tensor, narrow: readonly FloatingDType[]): void {
  for (const dtype of ["float32", "float64"] as const)
    for (const to of narrow)
      for (const shape of SHAPES)
        it(`${dtype} to ${to}, (${shape.join(", ")})`, async () => {
          const draw = new Draw(3),
            given = rounded(
              numbers(shape, () => draw.uniform() * 2 ** Math.round(20 * draw.uniform())),
              dtype,
            ),
            x = move(upload(given, dtype)),
            y = applyOperator("memformer::round_to", x, SCALAR_TYPE[to]);
          const found = await download(y);
          expect(found).to.deep.include({ shape, dtype });
          expect(Array.from(found.data)).to.deep.equal(Array.from(rounded(given, to).data));
          for (const tensor of [x, y]) tensor.dispose();
        });

  it("rounds float64 by way of float32", async () => {
    const x = move(
        upload(
          numbers([1], () => 1 + 2 ** -8 + 2 ** -40),
          "float64",
        ),
      ),
      y = applyOperator("memformer::round_to", x, SCALAR_TYPE.bfloat16);
    expect(Array.from((await download(y)).data)).to.deep.equal([1]);
    for (const tensor of [x, y]) tensor.dispose();
  });

  it("rounds a half to even, and keeps what is no number", async () => {
    const data = [1 + 1 / 256, 1 + 3 / 256, -1 - 1 / 256, Infinity, -Infinity, NaN, 0],
      wanted = [1, 1 + 1 / 64, -1, Infinity, -Infinity, NaN, 0];
    const x = move(
        upload(
          numbers([data.length], (i) => data[i]!),
          "float32",
        ),
      ),
      y = applyOperator("memformer::round_to", x, SCALAR_TYPE.bfloat16);
    expect(Array.from((await download(y)).data)).to.deep.equal(wanted);
    for (const tensor of [x, y]) tensor.dispose();
  });
}

describe("memformer::round_to", () => {
  suite((x) => x, ["bfloat16", "float16"]);

  it("refuses numbers that are narrow already, and a dtype that is not", async () => {
    for (const [dtype, to, message] of [
      ["bfloat16", "bfloat16", /^round_to: x must be float32 or float64, got BFloat16$/],
      ["float32", "float64", /^round_to: dtype must be bfloat16 or float16, got Double$/],
    ] as const) {
      const [y] = tidy(() => callOperator("memformer::round_to", upload(numbers([2, 2]), dtype), SCALAR_TYPE[to]));
      try {
        await y!.data();
        expect.fail("it is not refused");
      } catch (error) {
        expect(error).to.have.property("code", "ERR_MEMFORMER_DTYPE");
        expect((error as Error).message).to.match(message);
      } finally {
        y!.dispose();
      }
    }
  });
});

describeOnGpu("memformer::round_to on the GPU", () => {
  suite(toGpu, ["bfloat16", "float16"]);
});
