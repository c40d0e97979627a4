/**
 * The bytes of a saved session: the length of the header (4, little-endian), the header (JSON), the state's parts one
 * behind the other. The header holds a hash of the weights that made the state; sessions saved before it did are read
 * without. Version 1, of a state of one float32 or float64 part, has that part's shape and dtype in the header; version
 * 2, of any other state, has a list of them by name.
 */
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { notFinite } from "../engine/finite.ts";
import { typedArray, type DType, type NumberArray } from "../engine/tensor.ts";
import { rowBytes, type StatePart } from "../model/state.ts";
import type { SessionModel } from "./session-model.ts";

const FORMAT = "memformer-session";
const tokenList = z.array(z.int().nonnegative());
const shape = z.array(z.int());
const common = {
  format: z.literal(FORMAT),
  tokenizer: z.string(),
  weights: z.string().optional(),
  previous: tokenList.nullable(),
  current: tokenList,
};
const headerSchema = z.discriminatedUnion("version", [
  z.object({ ...common, version: z.literal(1), shape }),
  z.object({
    ...common,
    version: z.literal(2),
    state: z.array(z.object({ name: z.string(), shape, dtype: z.string() })),
  }),
]);
type SessionHeader = z.output<typeof headerSchema>;

/** A part of the state as it was read, of one row. */
interface ReadPart {
  readonly dtype: DType;
  readonly shape: number[];
  readonly data: ArrayBuffer;
}

export interface SessionParts extends Pick<SessionHeader, "tokenizer" | "previous" | "current"> {
  /** Of `model.weightsHash()`. */
  readonly weights: string;
  readonly layout: readonly StatePart[];
  readonly state: readonly ReadPart[];
}

/** Whether a state of this layout is saved as version 1. */
function single(layout: readonly StatePart[]): boolean {
  return layout.length === 1 && isFloating(layout[0]!.dtype);
}

/** Throws MemformerError NOT_FINITE for a state that no model can go on with. */
export function packSession({ layout, state, tokenizer, weights, previous, current }: SessionParts): Uint8Array {
  for (const [i, { dtype, data }] of state.entries())
    if (!sound(dtype, typedArray(dtype, data))) throw notFinite(`the session's ${layout[i]!.name}`);
  const whole = single(layout) ? state[0]! : undefined;
  const header = {
    format: FORMAT,
    version: whole === undefined ? 2 : 1,
    tokenizer,
    weights,
    ...(whole === undefined
      ? { state: state.map(({ shape, dtype }, i) => ({ name: layout[i]!.name, shape, dtype })) }
      : { shape: whole.shape, dtype: whole.dtype }),
    previous,
    current,
  };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = state.reduce((sum, { data }) => sum + data.byteLength, 0);
  const bytes = new Uint8Array(4 + text.length + length);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  let at = 4 + text.length;
  for (const { data } of state) {
    bytes.set(new Uint8Array(data), at);
    at += data.byteLength;
  }
  return bytes;
}

/** A part of a state that was saved, as the engine takes it. */
export interface SavedPart {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: NumberArray;
}

/** What saved bytes hold, checked against the model. */
export function unpackSession(
  bytes: Uint8Array,
  model: SessionModel,
): { header: SessionHeader; state: readonly SavedPart[] } {
  const bad = (sentence: string): never => {
    throw new MemformerError("CHECKPOINT_FORMAT", `these bytes are not a saved session: ${sentence}`);
  };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.byteLength < 4 ? bad("fewer than 4 of them") : view.getUint32(0, true);
  if (length > bytes.byteLength - 4) bad("the header runs past their end");
  let text: unknown;
  try {
    text = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(4, 4 + length)));
  } catch {
    return bad("the header is not JSON");
  }
  const parsed = headerSchema.safeParse(text);
  if (!parsed.success)
    return bad(parsed.error.issues.map(({ path, message }) => `${path.join(".") || "header"}: ${message}`).join("; "));
  const header = parsed.data,
    layout = model.stateLayout,
    { segmentLength: segment, vocabulary } = model.config;
  expectLayout(header, layout);
  // A copy of its own: `bytes` may be a part of a larger buffer, at an odd place in it.
  const numbers = Uint8Array.from(bytes.subarray(4 + length));
  const expected = rowBytes(layout),
    what = layout.length === 1 ? layout[0]!.name : "state";
  if (numbers.byteLength !== expected) bad(`${numbers.byteLength} bytes of ${what}, expected ${expected}`);
  let at = 0;
  const state = layout.map(({ name, shape, dtype }): SavedPart => {
    const length = rowBytes([{ shape, dtype }]);
    const data = typedArray(dtype, numbers.buffer.slice(at, (at += length)));
    if (!sound(dtype, data)) bad(`its ${name} holds numbers that are not finite`);
    return { dtype, shape: [1, ...shape], data };
  });
  const { previous, current } = header,
    valid = (tokens: readonly number[]): boolean => tokens.every((token) => token < vocabulary);
  if (previous !== null && (previous.length !== segment || !valid(previous))) bad("its tokens do not fit the model");
  if (current.length >= segment || !valid(current)) bad("its tokens do not fit the model");
  return { header, state };
}

/** Throws MemformerError CHECKPOINT_MISMATCH for a state of another layout. */
function expectLayout(header: SessionHeader, layout: readonly StatePart[]): void {
  const told = (shape: readonly number[], name: string, dtype: string): string =>
    `${name} ${dtype} [${shape.join(", ")}]`;
  // Version 1 names neither: its one part is whatever single part the model has.
  const { name = "memory", dtype = "float32" } = single(layout) ? layout[0]! : {};
  const saved = header.version === 1 ? [{ shape: header.shape, name, dtype }] : header.state;
  const found = saved.map((part) => told(part.shape, part.name, part.dtype)).join(", ") || "empty",
    expected = layout.map((part) => told([1, ...part.shape], part.name, part.dtype)).join(", ") || "empty";
  if (found === expected) return;
  throw new MemformerError(
    "CHECKPOINT_MISMATCH",
    `the session is of another model: its state is ${found}, expected ${expected}`,
    { details: { found, expected } },
  );
}

function isFloating(dtype: DType): boolean {
  return dtype === "float32" || dtype === "float64";
}

/** Whether numbers of a floating dtype are finite; whole ones are. */
function sound(dtype: DType, numbers: NumberArray): boolean {
  return !isFloating(dtype) || numbers.every((value: number | bigint) => Number.isFinite(value));
}
