/** Floating-point numbers of a file in a wider dtype, without rounding. */
import type { DType, HostTensor } from "./host-tensor.ts";

export type WideType = "float32" | "float64";

/** Whether {@link widened} can bring numbers of `dtype` into `wide` without rounding them. */
export function widens(dtype: DType, wide: WideType): boolean {
  return dtype === wide || dtype === "float32" || dtype === "float16" || dtype === "bfloat16";
}

/** The bytes of a tensor's numbers as `wide`. Throws RangeError where {@link widens} says no. */
export function widened({ dtype, data }: HostTensor, wide: WideType): Uint8Array {
  if (dtype === wide) return data;
  if (!widens(dtype, wide)) throw new RangeError(`${dtype} cannot be widened to ${wide}`);
  const numbers =
    dtype === "float32"
      ? new Float32Array(aligned(data))
      : fromHalves(new Uint16Array(aligned(data)), dtype === "float16" ? halfBits : bfloat16Bits);
  const out = wide === "float32" ? numbers : Float64Array.from(numbers);
  return new Uint8Array(out.buffer, out.byteOffset, out.byteLength);
}

function aligned(data: Uint8Array): ArrayBuffer {
  return data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer;
}

function fromHalves(halves: Uint16Array, bitsOf: (half: number) => number): Float32Array {
  const bits = Uint32Array.from(halves, bitsOf);
  return new Float32Array(bits.buffer);
}

/** bfloat16 is the upper half of a float32. */
function bfloat16Bits(half: number): number {
  return (half << 16) >>> 0;
}

/** IEEE half, 1-5-10 bits with exponent bias 15, to single, 1-8-23 with 127. */
function halfBits(half: number): number {
  const sign = (half & 0x8000) << 16,
    exponent = (half >> 10) & 0x1f,
    fraction = half & 0x3ff;
  if (exponent === 0x1f) return (sign | 0x7f800000 | (fraction << 13)) >>> 0;
  if (exponent > 0) return (sign | ((exponent + 112) << 23) | (fraction << 13)) >>> 0;
  if (fraction === 0) return sign >>> 0;
  // Subnormal: the highest bit of the fraction becomes the implicit one.
  const shift = Math.clz32(fraction) - 21;
  return (sign | ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13)) >>> 0;
}
