/** Numbers on their way out of a checkpoint: half precision widened, views gathered. */
import { expect } from "chai";
import fc from "fast-check";
import { gathered, StridedTensor } from "../lib/checkpoint/pytorch/strided.ts";
import { widened } from "../lib/checkpoint/widen.ts";
import { numbersOf } from "./support/host-numbers.ts";

describe("numbers of a file", () => {
  it("of every half precision pattern widen to what the format says", () => {
    const halves = Uint16Array.from({ length: 65_536 }, (_, i) => i);
    const bytes = new Uint8Array(halves.buffer),
      shape = [65_536];
    for (const wide of ["float32", "float64"] as const) {
      const found = {
        float16: numbersOf({ dtype: wide, shape, data: widened({ dtype: "float16", shape, data: bytes }, wide) }),
        bfloat16: numbersOf({ dtype: wide, shape, data: widened({ dtype: "bfloat16", shape, data: bytes }, wide) }),
      };
      const wrong = [...halves].filter((half) => {
        const sign = half >> 15 === 1 ? -1 : 1;
        return (
          !Object.is(found.float16[half], sign * ieee((half >> 10) & 0x1f, half & 0x3ff, 5, 10)) ||
          !Object.is(found.bfloat16[half], sign * ieee((half >> 7) & 0xff, half & 0x7f, 8, 7))
        );
      });
      expect(wrong).to.deep.equal([]);
    }
  });

  it("are not widened where they would be rounded", () => {
    expect(() => widened({ dtype: "float64", shape: [0], data: new Uint8Array() }, "float32")).to.throw(
      RangeError,
      "float64 cannot be widened to float32",
    );
  });

  it("of any view come in row-major order", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(4), fc.nat(3)), { maxLength: 4 }), fc.nat(5), (axes, offset) => {
        const storage = { key: "0", dtype: "uint8", length: 64 } as const;
        const view = new StridedTensor(
          storage,
          offset,
          axes.map(([size]) => size),
          axes.map(([, stride]) => stride),
        );
        let expected = [offset];
        for (const [size, stride] of axes)
          expected = expected.flatMap((at) => Array.from({ length: size }, (_, i) => at + i * stride));
        expect([
          ...gathered(
            view,
            Uint8Array.from({ length: 64 }, (_, i) => i),
          ),
        ]).to.deep.equal(expected);
      }),
    );
  });
});

/** A number without sign, of its exponent and fraction, by the definition. */
function ieee(exponent: number, fraction: number, exponentBits: number, fractionBits: number): number {
  const most = 2 ** exponentBits - 1,
    bias = 2 ** (exponentBits - 1) - 1,
    part = fraction / 2 ** fractionBits;
  if (exponent === most) return fraction === 0 ? Infinity : NaN;
  return exponent === 0 ? part * 2 ** (1 - bias) : (1 + part) * 2 ** (exponent - bias);
}
