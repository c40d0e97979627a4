/** A tensor as PyTorch describes it: a view of a storage, with an offset and a stride an axis, counted in elements. */
import { ITEM_BYTES, tensorBytes, type DType } from "../host-tensor.ts";

export interface Storage {
  readonly key: string;
  readonly dtype: DType;
  /** Elements. */
  readonly length: number;
}

/** Made by {@link stridedTensor} alone, which has checked it. */
export class StridedTensor {
  readonly storage: Storage;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly stride: readonly number[];

  constructor(storage: Storage, offset: number, shape: readonly number[], stride: readonly number[]) {
    this.storage = storage;
    this.offset = offset;
    this.shape = shape;
    this.stride = stride;
  }
}

/** An expanded tensor repeats its storage; beyond so many numbers that is an attack or an accident. */
const MOST_REPEATED = 2 ** 24;

/** The view, or a sentence about what is wrong with it. */
export function stridedTensor(
  storage: Storage,
  offset: unknown,
  shape: readonly unknown[],
  stride: readonly unknown[],
): StridedTensor | string {
  const bytes = tensorBytes(storage.dtype, shape);
  if (typeof bytes === "string") return bytes;
  if (
    stride.length !== shape.length ||
    ![offset, ...stride].every((at) => Number.isSafeInteger(at) && (at as number) >= 0)
  ) {
    return "its offset and strides are not whole numbers from 0, one an axis";
  }
  const view = new StridedTensor(storage, offset as number, shape as number[], stride as number[]);
  const count = bytes / ITEM_BYTES[storage.dtype];
  const last = view.shape.reduce((at, size, axis) => at + (size - 1) * view.stride[axis]!, view.offset);
  if (count > 0 && last >= storage.length) return `it reaches to element ${last} of a storage of ${storage.length}`;
  if (count > Math.max(storage.length, MOST_REPEATED))
    return `it repeats a storage of ${storage.length} to ${count} numbers`;
  return view;
}

/** The view's elements in row-major order, in a buffer of their own. `bytes`: the whole storage. */
export function gathered({ storage, offset, shape, stride }: StridedTensor, bytes: Uint8Array): Uint8Array {
  const size = ITEM_BYTES[storage.dtype],
    count = shape.reduce((product, length) => product * length, 1);
  if (isContiguous(shape, stride)) return bytes.slice(offset * size, (offset + count) * size);
  const out = new Uint8Array(count * size),
    index = shape.map(() => 0);
  let from = offset;
  for (let to = 0; to < count; to++) {
    for (let byte = 0; byte < size; byte++) out[to * size + byte] = bytes[from * size + byte]!;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += stride[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      from -= shape[axis]! * stride[axis]!;
      index[axis] = 0;
    }
  }
  return out;
}

function isContiguous(shape: readonly number[], stride: readonly number[]): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis]! > 1 && stride[axis] !== expected) return false;
    expected *= shape[axis]!;
  }
  return true;
}
