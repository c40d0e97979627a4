/**
 * Saved sessions of earlier versions, which are read and no more written: the length of the header (4, little-endian),
 * the header (JSON), the state's parts one behind the other. Version 1, of a state of one float32 or float64 part, has
 * that part's shape and dtype in the header; the first form of version 2 has a list of them by name. A header without a
 * hash of the weights is of the first release: there is nothing to compare.
 */
import { z } from "zod";
import { typedArray, type DType } from "../engine/tensor.ts";
import { rowBytes, type StatePart } from "../model/state.ts";
import type { HostPart } from "./stored-state.ts";
import { allFinite, badSession, otherModel, type SessionBinding, type SessionParts } from "./saved-session.ts";
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

/** Whether a state of this layout was saved as version 1. */
function single(layout: readonly StatePart[]): boolean {
  return layout.length === 1 && isFloating(layout[0]!.dtype);
}

/** Whether bytes begin with the length of a header in JSON. */
export function isJsonSession(bytes: Buffer): boolean {
  return bytes.length > 4 && bytes[4] === 0x7b && bytes.readUInt32LE(0) <= bytes.length - 4;
}

/** What they hold, checked against the model. `position` is what they can tell of it: the tokens they hold. */
export function unpackJsonSession(bytes: Buffer, model: SessionModel): SessionParts & SessionBinding {
  const length = bytes.readUInt32LE(0);
  let text: unknown;
  try {
    text = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(4, 4 + length)));
  } catch {
    throw badSession("the header is not JSON");
  }
  const parsed = headerSchema.safeParse(text);
  if (!parsed.success) {
    throw badSession(
      parsed.error.issues.map(({ path, message }) => `${path.join(".") || "header"}: ${message}`).join("; "),
    );
  }
  const header = parsed.data,
    layout = model.stateLayout,
    { segmentLength: segment, vocabulary } = model.config;
  expectLayout(header, layout);
  const numbers = Uint8Array.from(bytes.subarray(4 + length));
  const expected = rowBytes(layout),
    what = layout.length === 1 ? layout[0]!.name : "state";
  if (numbers.byteLength !== expected) throw badSession(`${numbers.byteLength} bytes of ${what}, expected ${expected}`);
  let at = 0;
  const state = layout.map(({ name, shape, dtype }): HostPart => {
    const length = rowBytes([{ shape, dtype }]);
    const data = typedArray(dtype, numbers.buffer.slice(at, (at += length)));
    if (!allFinite(dtype, data)) throw badSession(`its ${name} holds numbers that are not finite`);
    return { dtype, shape: [1, ...shape], data };
  });
  const { previous, current } = header,
    valid = (tokens: readonly number[]): boolean => tokens.every((token) => token < vocabulary);
  if (previous !== null && (previous.length !== segment || !valid(previous)))
    throw badSession("its tokens do not fit the model");
  if (current.length >= segment || !valid(current)) throw badSession("its tokens do not fit the model");
  return {
    weights: header.weights,
    tokenizer: { name: header.tokenizer, fingerprint: undefined },
    state,
    previous: previous === null ? undefined : Int32Array.from(previous),
    current,
    position: (previous?.length ?? 0) + current.length,
    unfinished: [],
    sampler: undefined,
  };
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
  if (found !== expected) throw otherModel(`its state is ${found}, expected ${expected}`, { found, expected });
}

function isFloating(dtype: DType): boolean {
  return dtype === "float32" || dtype === "float64";
}
