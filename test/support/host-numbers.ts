/** The numbers in a tensor of a file, whatever its dtype. */
import type { HostTensor } from "../../lib/checkpoint/host-tensor.ts";
import { widened } from "../../lib/checkpoint/widen.ts";
import { typedArray } from "../../lib/engine/tensor.ts";

export function numbersOf({ dtype, data }: HostTensor): ArrayLike<number | bigint> {
  const buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer;
  const half = dtype === "float16" || dtype === "bfloat16";
  return half
    ? new Float32Array(widened({ dtype, shape: [], data }, "float32").buffer as ArrayBuffer)
    : typedArray(dtype, buffer);
}
