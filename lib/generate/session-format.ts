/**
 * The bytes of a saved session: the length of the header (4, little-endian), the header (JSON), the memory (M x D
 * numbers). The header holds a hash of the weights that made the memory; sessions saved before it did are read without.
 */
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { notFinite } from "../engine/finite.ts";
import type { SessionModel } from "./session-model.ts";
import { masterType } from "../model/files.ts";
import { typedArray, type DType, type NumberArray } from "../engine/tensor.ts";

const FORMAT = "memformer-session";
const tokenList = z.array(z.int().nonnegative());
const headerSchema = z.object({
  format: z.literal(FORMAT),
  version: z.literal(1),
  tokenizer: z.string(),
  shape: z.array(z.int()),
  weights: z.string().optional(),
  previous: tokenList.nullable(),
  current: tokenList,
});
type SessionHeader = z.output<typeof headerSchema>;

export interface SessionParts extends Pick<SessionHeader, "tokenizer" | "previous" | "current"> {
  /** Of `model.weightsHash()`. */
  readonly weights: string;
  readonly memory: { readonly dtype: DType; readonly shape: number[]; readonly data: ArrayBuffer };
}

/** Throws MemformerError NOT_FINITE for a memory that no model can go on with. */
export function packSession({ memory, tokenizer, weights, previous, current }: SessionParts): Uint8Array {
  if (!allFinite(typedArray(memory.dtype, memory.data))) throw notFinite("the session's memory");
  const header = {
    format: FORMAT,
    version: 1,
    tokenizer,
    weights,
    shape: memory.shape,
    dtype: memory.dtype,
    previous,
    current,
  };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(4 + text.length + memory.data.byteLength);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  bytes.set(new Uint8Array(memory.data), 4 + text.length);
  return bytes;
}

/** Reads saved bytes and checks them against the model. */
export function unpackSession(bytes: Uint8Array, model: SessionModel): { header: SessionHeader; data: NumberArray } {
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
    { memorySlots, width, segment, vocabulary } = model.config;
  const wanted = [1, memorySlots, width];
  if (header.shape.join() !== wanted.join()) {
    throw new MemformerError(
      "CHECKPOINT_MISMATCH",
      `the session is of another model: its memory is [${header.shape.join(", ")}], expected [${wanted.join(", ")}]`,
    );
  }
  // A copy of its own: `bytes` may be a part of a larger buffer, at an odd place in it.
  const memory = Uint8Array.from(bytes.subarray(4 + length));
  if (memory.byteLength !== model.stateBytes) bad(`${memory.byteLength} bytes of memory, expected ${model.stateBytes}`);
  const data = typedArray(masterType(model.config), memory.buffer);
  if (!allFinite(data)) bad("its memory holds numbers that are not finite");
  const { previous, current } = header,
    valid = (tokens: readonly number[]): boolean => tokens.every((token) => token < vocabulary);
  if (previous !== null && (previous.length !== segment || !valid(previous))) bad("its tokens do not fit the model");
  if (current.length >= segment || !valid(current)) bad("its tokens do not fit the model");
  return { header, data };
}

function allFinite(numbers: NumberArray): boolean {
  return numbers.every((value: number | bigint) => Number.isFinite(value));
}
