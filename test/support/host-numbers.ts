/** The numbers in a tensor of a file, whatever its dtype. */
import type { HostTensor } from "../../lib/checkpoint/host-tensor.ts";
import { widened } from "../../lib/checkpoint/widen.ts";

export function numbersOf({ dtype, data }: HostTensor): ArrayLike<number | bigint> {
  const buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer;
  switch (dtype) {
    case "float64": return new Float64Array(buffer);
    case "float32": return new Float32Array(buffer);
    case "int64": return new BigInt64Array(buffer);
    case "int32": return new Int32Array(buffer);
    case "uint8": case "bool": return new Uint8Array(buffer);
    default: return new Float32Array(widened({ dtype, shape: [], data }, "float32").buffer as ArrayBuffer);
  }
}
