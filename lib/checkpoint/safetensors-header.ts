/**
 * The header of a safetensors file, both ways: 8 bytes of little-endian length N, N bytes of JSON
 * `{ "__metadata__"?: {…}, name: { dtype, shape, data_offsets: [begin, end] } }`, then the data, which the tensors
 * must cover from its first byte to its last without gap or overlap. Nothing a file claims is believed unchecked.
 */
import { MemformerError } from "../errors.ts";
import { tensorBytes, type DType } from "./host-tensor.ts";
import { duplicateKey } from "../files/json-keys.ts";

/** Where a tensor lies; `begin` and `end` count from the first byte of data. */
export interface TensorPlace {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

export interface Header {
  readonly tensors: ReadonlyMap<string, TensorPlace>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** The limit of the reference implementation, in bytes. */
export const MAX_HEADER_BYTES = 100_000_000;

const TAG_OF: Readonly<Record<DType, string>> = {
  float64: "F64",
  float32: "F32",
  float16: "F16",
  bfloat16: "BF16",
  int64: "I64",
  int32: "I32",
  uint8: "U8",
  bool: "BOOL",
};
const DTYPE_OF = new Map(Object.entries(TAG_OF).map(([dtype, tag]) => [tag, dtype as DType]));
const METADATA = "__metadata__";

/** Length and JSON, padded with spaces so that the data starts at a multiple of 8. */
export function encodeHeader(header: Header): Uint8Array {
  const fields: [string, unknown][] = [];
  if (Object.keys(header.metadata).length > 0) fields.push([METADATA, header.metadata]);
  for (const [name, { dtype, shape, begin, end }] of header.tensors) {
    fields.push([name, { dtype: TAG_OF[dtype], shape, data_offsets: [begin, end] }]);
  }
  // Written field by field: an object literal would reorder names that look like numbers and swallow "__proto__".
  const json = `{${fields.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(",")}}`;
  const text = Buffer.from(json);
  const padded = Math.ceil(text.length / 8) * 8;
  if (padded > MAX_HEADER_BYTES) {
    throw new MemformerError(
      "CHECKPOINT_FORMAT",
      `the header would take ${padded} bytes; the format's limit is ${MAX_HEADER_BYTES}`,
    );
  }
  const bytes = Buffer.alloc(8 + padded, " ");
  bytes.writeBigUInt64LE(BigInt(padded), 0);
  text.copy(bytes, 8);
  return bytes;
}

/** Checks and reads the JSON of a header whose file has `dataBytes` bytes after it. Throws CHECKPOINT_FORMAT. */
export function decodeHeader(json: Uint8Array, dataBytes: number, path: string): Header {
  const fail = (words: string, details: Record<string, unknown> = {}): never => {
    // Names and tags come from the file and may be megabytes long.
    const sentence = words.length > 600 ? `${words.slice(0, 600)}…` : words;
    throw new MemformerError("CHECKPOINT_FORMAT", `${path}: ${sentence}`, { details: { path, ...details } });
  };
  const fields = parseObject(json, fail);
  let metadata: Record<string, string> = {};
  const tensors = new Map<string, TensorPlace>();
  for (const [name, value] of Object.entries(fields)) {
    if (name === METADATA) metadata = checkMetadata(value, fail);
    else tensors.set(name, checkTensor(name, value, dataBytes, fail));
  }
  checkCover(tensors, dataBytes, fail);
  return { tensors, metadata };
}

type Fail = (words: string, details?: Record<string, unknown>) => never;

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseObject(json: Uint8Array, fail: Fail): Record<string, unknown> {
  let parsed: unknown;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(json);
    parsed = JSON.parse(text);
  } catch (error) {
    return fail(`the header is not valid JSON (${(error as Error).message.slice(0, 200)})`);
  }
  if (!isObject(parsed)) return fail("the header is valid JSON, but not an object");
  const twice = duplicateKey(text);
  if (twice !== undefined) return fail(`the header holds the key "${twice}" twice`, { key: twice });
  return parsed;
}

function checkMetadata(value: unknown, fail: Fail): Record<string, string> {
  if (!isObject(value)) return fail(`"${METADATA}" is not an object`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== "string") {
      return fail(`"${METADATA}" holds a ${typeof text} under "${key}"; only strings are allowed`, { key });
    }
  }
  return value as Record<string, string>;
}

function checkTensor(name: string, value: unknown, dataBytes: number, fail: Fail): TensorPlace {
  const wrong: Fail = (words, details = {}) => fail(`tensor "${name}": ${words}`, { tensor: name, ...details });
  if (!isObject(value)) return wrong("its entry in the header is not an object");
  const { dtype: tag, shape, data_offsets: offsets } = value;
  const dtype = typeof tag === "string" ? DTYPE_OF.get(tag) : undefined;
  if (dtype === undefined) {
    return wrong(`unknown dtype ${JSON.stringify(tag)}; known are ${[...DTYPE_OF.keys()].join(", ")}`, { dtype: tag });
  }
  if (!Array.isArray(shape)) return wrong("its shape is not a list", { shape });
  const bytes = tensorBytes(dtype, shape);
  if (typeof bytes === "string") return wrong(bytes, { shape });
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every((at) => Number.isSafeInteger(at) && at >= 0)) {
    return wrong("its data_offsets are not two whole numbers from 0 to 2^53 - 1", { offsets });
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end) return wrong(`its data_offsets [${begin}, ${end}] run backwards`, { offsets });
  if (end > dataBytes) {
    return wrong(`its data ends at byte ${end}, but the file holds only ${dataBytes} bytes of data (truncated?)`, {
      offsets,
      dataBytes,
    });
  }
  if (end - begin !== bytes) {
    const wanted = `${TAG_OF[dtype]} of shape [${shape.join(", ")}] needs ${bytes}`;
    return wrong(`its data_offsets span ${end - begin} bytes, but ${wanted}`, { offsets, bytes });
  }
  return { dtype, shape: shape as number[], begin, end };
}

function checkCover(tensors: ReadonlyMap<string, TensorPlace>, dataBytes: number, fail: Fail): void {
  let covered = 0;
  let before = "";
  const inOrder = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  for (const [name, { begin, end }] of inOrder) {
    if (begin < covered) {
      fail(`tensors "${before}" and "${name}" overlap at byte ${begin} of the data`, {
        tensors: [before, name],
        begin,
      });
    }
    if (begin > covered) {
      fail(`no tensor covers the bytes ${covered} to ${begin} of the data, before "${name}"`, {
        tensor: name,
        covered,
        begin,
      });
    }
    covered = end;
    before = name;
  }
  if (covered < dataBytes) {
    fail(`no tensor covers the last ${dataBytes - covered} bytes of the file`, { covered, dataBytes });
  }
}
