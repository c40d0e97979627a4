/** The arrays an operator's spec speaks in: float64 numbers here, any dtype and any layout in the engine. */
import { Random } from "../../lib/data/random.ts";
import { applyOperator, type DType, type NumberArray, Tensor } from "../../lib/index.ts";
import { numbersOf } from "./host-numbers.ts";

/** What operators compute in; float16 on a GPU alone. */
export type FloatingDType = "float64" | "float32" | "bfloat16" | "float16";

/**
 * "floating" has the dtype under test, "accumulated" the dtype its sums are carried in, "master" that dtype too, which
 * parameters are kept in; or a dtype that stays.
 */
export type Kind = "floating" | "master" | "accumulated" | "int64" | "int32" | "bool";

/** A tensor of a spec. Those of kind "floating" or "master" among the arguments are the differentiable ones. */
export interface Numbers {
  readonly shape: readonly number[];
  readonly data: Float64Array;
  readonly kind: Kind;
}

/** A tensor read back. */
export interface Found {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** How a tensor lies in memory. "strided": its last two axes swapped; of a list, every second place. */
export type Layout = "contiguous" | "strided";

/** The distance from 1 to the next number. */
export const EPSILON: Readonly<Record<FloatingDType, number>> = {
  float64: 2 ** -52,
  float32: 2 ** -23,
  bfloat16: 2 ** -7,
  float16: 2 ** -10,
};

/** How LibTorch numbers the dtypes. */
export const SCALAR_TYPE: Readonly<Record<FloatingDType, number>> = {
  float64: 7,
  float32: 6,
  bfloat16: 15,
  float16: 5,
};

export function count(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** A tensor whose element i, in row-major order, is `value(i)`; zeros without it. */
export function numbers(
  shape: readonly number[],
  value: (i: number) => number = () => 0,
  kind: Kind = "floating",
): Numbers {
  return { shape, data: Float64Array.from({ length: count(shape) }, (_, i) => value(i)), kind };
}

/** Draws for a spec's inputs, the same in every run. */
export class Draw extends Random {
  /** From -1 to 1, evenly. */
  uniform(): number {
    return this.next() / 2 ** 31 - 1;
  }

  numbers(shape: readonly number[], scale = 1, kind: Kind = "floating"): Numbers {
    return numbers(shape, () => scale * this.uniform(), kind);
  }
}

/** The dtype a kind has while `dtype` is under test. */
export function dtypeOf(kind: Kind, dtype: FloatingDType): DType {
  if (kind === "floating") return dtype;
  return kind === "accumulated" || kind === "master" ? (dtype === "float64" ? "float64" : "float32") : kind;
}

/** The nearest numbers that `dtype` holds. */
export function rounded(value: Numbers, dtype: FloatingDType): Numbers {
  const actual = dtypeOf(value.kind, dtype);
  return actual === "float32" || actual === "bfloat16" || actual === "float16"
    ? { ...value, data: decode(actual, encode(value.data, actual).buffer as ArrayBuffer) }
    : value;
}

/** Into the engine. */
export function upload(value: Numbers, dtype: FloatingDType, layout: Layout = "contiguous"): Tensor {
  const actual = dtypeOf(value.kind, dtype),
    rank = value.shape.length;
  const make = (data: Float64Array, shape: readonly number[]): Tensor =>
    Tensor.from(encode(data, actual), shape, actual);
  if (layout === "contiguous" || rank === 0) return make(value.data, value.shape);
  if (rank === 1) {
    const gap = actual === "int64" || actual === "int32" || actual === "bool" ? 0 : NaN;
    const spread = new Float64Array(2 * value.data.length).map((_, i) => (i % 2 === 0 ? value.data[i / 2]! : gap));
    return applyOperator("aten::slice.Tensor", make(spread, [spread.length]), 0, 0, null, 2);
  }
  const rows = value.shape[rank - 2]!,
    columns = value.shape[rank - 1]!,
    page = rows * columns;
  const turned = value.data.map((_, i, data) => {
    const within = i % page;
    return data[i - within + (within % rows) * columns + Math.floor(within / rows)]!;
  });
  const shape = [...value.shape.slice(0, rank - 2), columns, rows];
  return applyOperator("aten::transpose.int", make(turned, shape), -1, -2);
}

/** Out of the engine. */
export async function download(tensor: Tensor): Promise<Found> {
  const { dtype, shape, data } = await tensor.read();
  return { dtype, shape, data: decode(dtype, data) };
}

function encode(data: Float64Array, dtype: DType): NumberArray {
  switch (dtype) {
    case "float64":
      return data;
    case "float32":
      return Float32Array.from(data);
    case "bfloat16":
      return toBfloat16(data);
    case "float16":
      return Uint16Array.from(data, toFloat16);
    case "int64":
      return BigInt64Array.from(Array.from(data, BigInt));
    case "int32":
      return Int32Array.from(data);
    default:
      return Uint8Array.from(data);
  }
}

function decode(dtype: DType, data: ArrayBuffer): Float64Array {
  return Float64Array.from(numbersOf({ dtype, shape: [], data: new Uint8Array(data) }), Number);
}

/** To nearest, ties to even; NaN stays NaN. */
function toBfloat16(data: Float64Array): Uint16Array {
  const words = new Uint32Array(Float32Array.from(data).buffer);
  const isNaN = (word: number): boolean => (word & 0x7fffffff) > 0x7f800000;
  return Uint16Array.from(words, (word) => (isNaN(word) ? 0x7fc0 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16));
}

const SMALLEST_NORMAL = 2 ** -14;

/** The bits of the nearest IEEE half, ties to even. */
function toFloat16(value: number): number {
  const size = Math.abs(value),
    sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  if (Number.isNaN(value)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  if (size < SMALLEST_NORMAL) return sign | nearestEven(size * 2 ** 24);
  let exponent = Math.floor(Math.log2(size));
  if (2 ** exponent > size) exponent -= 1;
  return sign | (((exponent + 14) << 10) + nearestEven(size / 2 ** (exponent - 10))); // the fraction's leading 1 adds the 15th
}

function nearestEven(value: number): number {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 === 1 ? up - 1 : up;
}
