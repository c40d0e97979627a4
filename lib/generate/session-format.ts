/**
 * The bytes of a saved session, version 2:
 *   magic (8)  version (u32)  header's length (u32)  header (JSON, UTF-8)
 *   tokens (i32): the segment before, the segment under way      the state's parts, in the precision kept
 *   SHA-256 of all of that (32), at the end of later versions too
 * Numbers are little-endian. The header binds it to a model (a hash of the weights, the configuration) and a tokenizer
 * (its name, a fingerprint). Sessions of earlier versions (session-format-json.ts) are read too.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import { ITEM_BYTES } from "../checkpoint/host-tensor.ts";
import { MemformerError } from "../errors.ts";
import { notFinite } from "../engine/finite.ts";
import { typedArray, type NumberArray } from "../engine/tensor.ts";
import { plainOptions } from "../model/config.ts";
import { rowBytes, type StatePart } from "../model/state.ts";
import { storedLayout, type HostPart } from "./stored-state.ts";
import type { SamplerSettings } from "./draw.ts";
import { allFinite, badSession, otherModel, type SessionBinding, type SessionParts } from "./saved-session.ts";
import { isJsonSession, unpackJsonSession } from "./session-format-json.ts";
import type { SessionModel } from "./session-model.ts";

const MAGIC = "MFsessn\n";
export const SESSION_VERSION = 2;
const HEAD = MAGIC.length + 8;
const HASH = 32;
const LONGEST_HEADER = 1 << 20;

const tokenCount = z.int().nonnegative();
const samplerSchema = z.strictObject({
  temperature: z.number().nonnegative(),
  topK: z.int().positive().nullable(),
  topP: z.number().positive().max(1),
  minP: z.number().min(0).max(1),
  // null: -infinity, which JSON does not have
  bias: z.array(z.tuple([tokenCount, z.number().nullable()])),
  seed: z.int().nonnegative(),
  repetitionPenalty: z.number().positive(),
  repetitionWindow: z.int().nonnegative(),
});
const headerSchema = z.strictObject({
  weights: z.string(),
  config: z.record(z.string(), z.unknown()),
  tokenizer: z.strictObject({ name: z.string(), fingerprint: z.string() }),
  state: z.array(z.strictObject({ name: z.string(), shape: z.array(tokenCount), dtype: z.string() })),
  position: tokenCount,
  previous: z.boolean(),
  current: tokenCount,
  unfinished: z.array(tokenCount),
  sampler: samplerSchema.nullable(),
});
type Header = z.output<typeof headerSchema>;

/** Throws MemformerError NOT_FINITE for a state that no model can go on with. */
export function packSession(
  parts: SessionParts,
  { weights, tokenizer }: { [Key in keyof SessionBinding]-?: NonNullable<SessionBinding[Key]> },
  model: SessionModel,
): Uint8Array {
  const { state, previous, current, position, unfinished, sampler } = parts,
    layout = storedLayout(model);
  for (const [i, { dtype, data }] of state.entries())
    if (!allFinite(dtype, data)) throw notFinite(`the session's ${layout[i]!.name}`);
  const header = {
    weights,
    config: model.config,
    tokenizer,
    state: layout.map(({ name, shape, dtype }) => ({ name, shape, dtype })),
    position,
    previous: previous !== undefined,
    current: current.length,
    unfinished,
    sampler: sampler === undefined ? null : { ...sampler, topK: sampler.topK === Infinity ? null : sampler.topK },
  };
  const text = Buffer.from(JSON.stringify(header)),
    head = Buffer.alloc(HEAD);
  head.write(MAGIC, "latin1");
  head.writeUInt32LE(SESSION_VERSION, MAGIC.length);
  head.writeUInt32LE(text.length, MAGIC.length + 4);
  const tokens = Int32Array.from([...(previous ?? []), ...current]);
  const body = [head, text, bytesOf(tokens), ...state.map(({ data }) => bytesOf(data))];
  const hash = createHash("sha256");
  for (const part of body) hash.update(part);
  return new Uint8Array(Buffer.concat([...body, hash.digest()]));
}

/**
 * What saved bytes hold. Throws MemformerError CHECKPOINT_FORMAT for bytes that are no session, or not whole,
 * CHECKPOINT_VERSION for a later version, CHECKPOINT_MISMATCH for another configuration or layout than the model's.
 */
export function unpackSession(bytes: Uint8Array, model: SessionModel): SessionParts & SessionBinding {
  // A copy of its own: `bytes` may be a part of a larger buffer, at an odd place in it, or change.
  const all = Buffer.from(bytes);
  if (isJsonSession(all)) return unpackJsonSession(all, model);
  const { header, body } = headerOf(all);
  const layout = storedLayout(model),
    { segmentLength, vocabulary } = model.config;
  expectLayout(header.state, layout);
  expectConfig(header.config, model);
  const { current: count, position } = header,
    before = header.previous ? segmentLength : 0;
  const ended = position - count; // whole segments
  if (count >= segmentLength || ended < before || ended % segmentLength !== 0 || (ended > 0 && before === 0))
    throw badSession("its counts of tokens do not fit the model");
  const expected = 4 * (before + count) + rowBytes(layout);
  if (body.length !== expected)
    throw badSession(`${body.length} bytes of tokens and ${whatOf(layout)}, expected ${expected}`);
  const tokens = typedArray("int32", bufferOf(body.subarray(0, 4 * (before + count)))) as Int32Array;
  const inside = (token: number): boolean => token >= 0 && token < vocabulary;
  const { unfinished, sampler } = header;
  if (unfinished.length > position || !tokens.every(inside) || !unfinished.every(inside))
    throw badSession("its tokens do not fit the model");
  if (sampler !== null && !sampler.bias.every(([id]) => inside(id)))
    throw badSession("its tokens do not fit the model");
  let at = 4 * tokens.length;
  const state = layout.map(({ name, shape, dtype }): HostPart => {
    const size = rowBytes([{ shape, dtype }]);
    const data = typedArray(dtype, bufferOf(body.subarray(at, (at += size))));
    if (!allFinite(dtype, data)) throw badSession(`its ${name} holds numbers that are not finite`);
    return { dtype, shape: [1, ...shape], data };
  });
  return {
    weights: header.weights,
    tokenizer: header.tokenizer,
    state,
    previous: header.previous ? tokens.slice(0, before) : undefined,
    current: [...tokens.subarray(before)],
    position,
    unfinished,
    sampler: sampler === null ? undefined : restored(sampler),
  };
}

function restored(sampler: NonNullable<Header["sampler"]>): SamplerSettings {
  return {
    ...sampler,
    topK: sampler.topK ?? Infinity,
    bias: sampler.bias.map(([id, value]): [number, number] => [id, value ?? -Infinity]),
  };
}

/** The header of bytes whose checksum is right, and what lies behind it. */
function headerOf(all: Buffer): { header: Header; body: Buffer } {
  if (all.length < HEAD + HASH) throw badSession(`fewer than ${HEAD + HASH} of them`);
  if (all.toString("latin1", 0, MAGIC.length) !== MAGIC) throw badSession("they do not begin like one");
  const end = all.length - HASH,
    whole = createHash("sha256").update(all.subarray(0, end)).digest();
  if (!whole.equals(all.subarray(end))) throw badSession("they were changed or cut: the checksum does not match");
  const version = all.readUInt32LE(MAGIC.length),
    length = all.readUInt32LE(MAGIC.length + 4);
  if (version > SESSION_VERSION) {
    throw new MemformerError(
      "CHECKPOINT_VERSION",
      `the session is of version ${version}; this memformer reads up to ${SESSION_VERSION}`,
      { details: { found: version, expected: SESSION_VERSION } },
    );
  }
  if (version !== SESSION_VERSION) throw badSession(`there is no version ${version}`);
  if (length > Math.min(end - HEAD, LONGEST_HEADER)) throw badSession("the header runs past their end");
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(all.subarray(HEAD, HEAD + length)));
  } catch {
    throw badSession("the header is not JSON");
  }
  const parsed = headerSchema.safeParse(json);
  if (!parsed.success) throw badSession(parsed.error.issues.map(issueText).join("; "));
  return { header: parsed.data, body: all.subarray(HEAD + length, end) };
}

function issueText({ path, message }: z.core.$ZodIssue): string {
  return `${path.join(".") || "header"}: ${message}`;
}

/** Options that change nothing of what a model computes without training. */
const trainingOptions: ReadonlySet<string> = new Set(["dropout", "memoryGradient", "memoryGradientLimit"]);

/** Throws MemformerError CHECKPOINT_MISMATCH, naming each option that differs: weights of equal shapes may hide it. */
function expectConfig(saved: Readonly<Record<string, unknown>>, model: SessionModel): void {
  // An option that is newer than the session meant its plain value.
  const found: Record<string, unknown> = { ...plainOptions, ...saved },
    expected: Record<string, unknown> = { ...plainOptions, ...(model.config as object) };
  const differing = [...new Set([...Object.keys(found), ...Object.keys(expected)])].filter(
    (key) => !trainingOptions.has(key) && canonical(found[key]) !== canonical(expected[key]),
  );
  if (differing.length === 0) return;
  const told = differing.map((key) => `${key} ${canonical(found[key])}, here ${canonical(expected[key])}`);
  throw otherModel(`it was saved with ${told.join("; ")}`, { found: saved, expected: model.config });
}

function canonical(value: unknown): string {
  return JSON.stringify(value) ?? "unset";
}

function expectLayout(saved: Header["state"], layout: readonly StatePart[]): void {
  const told = (parts: readonly { name: string; shape: readonly number[]; dtype: string }[]): string =>
    parts.map(({ name, shape, dtype }) => `${name} ${dtype} [${[1, ...shape].join(", ")}]`).join(", ") || "empty";
  const found = told(saved),
    expected = told(layout);
  if (found !== expected) throw otherModel(`its state is ${found}, expected ${expected}`, { found, expected });
}

function whatOf(layout: readonly StatePart[]): string {
  return layout.length === 1 ? layout[0]!.name : "state";
}

function bytesOf(data: NumberArray): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** A copy, so that numbers start where their size wants them to. */
function bufferOf(bytes: Uint8Array): ArrayBuffer {
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
}

/** Bytes of a saved session beside its header: what {@link packSession} writes for a whole two segments. */
export function savedBytes(model: Pick<SessionModel, "stateLayout" | "config">): number {
  return HEAD + HASH + 2 * model.config.segmentLength * ITEM_BYTES.int32 + rowBytes(storedLayout(model));
}
