/** A tensor as bytes of this process: what checkpoint files hold and what the engine takes in and gives out. */

/** Element types that travel between files and the engine. */
export type DType = "float64" | "float32" | "float16" | "bfloat16" | "int64" | "int32" | "uint8" | "bool";

/** A tensor's values in row-major order. */
export interface HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Little-endian, without gaps. Tensors read from a file start at byte 0 of their own buffer. */
  readonly data: Uint8Array;
}

/** Bytes of one element. */
export const ITEM_BYTES: Readonly<Record<DType, number>> = {
  float64: 8,
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int64: 8,
  int32: 4,
  uint8: 1,
  bool: 1,
};

/** LibTorch's own limit for most operators; a longer shape in a file is an attack or an accident. */
const MAX_RANK = 64;

/** Bytes of a whole tensor, or a sentence about what is wrong with its shape. */
export function tensorBytes(dtype: DType, shape: readonly unknown[]): number | string {
  if (shape.length > MAX_RANK) return `its shape has ${shape.length} dimensions; at most ${MAX_RANK} are allowed`;
  let bytes = ITEM_BYTES[dtype];
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || (size as number) < 0) {
      return `its shape [${shape.join(", ")}] has a size that is not a whole number from 0 to 2^53 - 1`;
    }
    bytes *= size as number;
    if (!Number.isSafeInteger(bytes)) return `its shape [${shape.join(", ")}] overflows: more than 2^53 - 1 bytes`;
  }
  return bytes;
}
