/** What an imported model computes of a window, in lucidrains' names, to be held against what theirs computes. */
import {
  applyOperator,
  disposeSegment,
  mrbp,
  Tensor,
  tidy,
  type Memformer,
  type Recurrence,
  type SegmentTensors,
} from "../../lib/index.ts";
import { rowsOf } from "../../lib/import/lucidrains-tensors.ts";
import { numbers, takeGradients } from "./models.ts";

export interface Window {
  /** S segments of B rows of T tokens; -1 is padding. */
  readonly source: readonly (readonly (readonly number[])[])[];
  readonly target: readonly (readonly (readonly number[])[])[];
  readonly weights: readonly number[];
}

/** `losses` (S), `outputs` (S, B, T, V or D), `memory` (B, M, D) and `grad.<their name>` by MRBP. */
export async function computed(model: Memformer, window: Window): Promise<Map<string, Float64Array>> {
  const batch = window.source[0]!.length,
    { architecture } = model.config;
  const segments = window.source.map((source, t) => upload(model, source, window.target[t]!, t === 0));
  const found = new Map<string, Float64Array>();
  found.set("outputs", await outputsOf(model, segments, window, batch));
  const recurrence = architecture === "encoder" ? meanSquares(model) : model;
  const { losses, state, gradient, counts } = tidy(() =>
    mrbp(recurrence, segments, model.initialState(batch), { weights: window.weights, training: false }),
  );
  found.set("losses", Float64Array.from((await numbers(losses)).flat()));
  found.set("memory", Float64Array.from((await numbers(state)).flat()));
  await numbers([...gradient, ...counts]);
  for (const [name, values] of inTheirNames(model, await takeGradients(model))) found.set(`grad.${name}`, values);
  segments.forEach(disposeSegment);
  return found;
}

/** |found - expected| / |expected|; infinite where they are not of one length. */
export function errorOf(found: Float64Array | undefined, expected: Float64Array): number {
  if (found?.length !== expected.length) return Infinity;
  const norm = (values: Float64Array): number => Math.hypot(...values);
  return norm(found.map((value, i) => value - expected[i]!)) / Math.max(norm(expected), Number.MIN_VALUE);
}

/** The outputs that count: of a decoder those before a target that is scored. */
export function scored(outputs: Float64Array, window: Window, isDecoder: boolean): Float64Array {
  const mask = (isDecoder ? window.target : window.source).flat(2).map((token) => token >= 0);
  const each = outputs.length / mask.length;
  return outputs.filter((_, i) => mask[Math.floor(i / each)]);
}

function upload(
  model: Memformer,
  source: Window["source"][number],
  target: Window["source"][number],
  starts: boolean,
): SegmentTensors {
  const [rows, length] = [source.length, source[0]!.length];
  return model.upload({
    batch: rows,
    length,
    source: Int32Array.from(source.flat()),
    target: Int32Array.from(target.flat()),
    reset: new Uint8Array(rows).fill(starts ? 1 : 0),
  });
}

/** Hidden states of an encoder; else logits, position by position, as generating asks for them. */
async function outputsOf(
  model: Memformer,
  segments: readonly SegmentTensors[],
  { target }: Window,
  batch: number,
): Promise<Float64Array> {
  const all: number[] = [];
  let state = model.initialState(batch);
  for (const [t, segment] of segments.entries()) {
    if (model.config.architecture === "encoder") {
      const encoded = model.encode(segment, state);
      all.push(...(await numbers([encoded.hidden])).flat());
    } else {
      const V = model.config.vocabulary,
        T = segment.length,
        logits = new Float64Array(batch * T * V);
      for (let position = 0; position < T; position++) {
        const before = target[t]!.flatMap((row) => row.slice(0, position).map(BigInt));
        using prefix = Tensor.from(BigInt64Array.from(before), [batch, position]);
        const [values] = await numbers([model.logits(segment, prefix, state)]);
        values!.forEach((value, i) => {
          logits[(Math.floor(i / V) * T + position) * V + (i % V)] = value;
        });
      }
      for (const value of logits) all.push(value);
    }
    state = model.advance(segment, state, { training: false });
  }
  await numbers(state);
  return Float64Array.from(all);
}

/** The encoder with half the mean square of its hidden states for a loss. */
function meanSquares(model: Memformer): Recurrence {
  return {
    advance: (...step) => model.advance(...step),
    forward: (segment, before, step) => {
      const { hidden, state } = model.encode(segment, before, step);
      const loss = applyOperator(
        "aten::mul.Scalar",
        applyOperator("aten::mean", applyOperator("aten::mul.Tensor", hidden, hidden)),
        0.5,
      );
      return { loss, count: applyOperator("aten::sum", segment.reset), state };
    },
  };
}

function inTheirNames(model: Memformer, ours: ReadonlyMap<string, Float64Array>): Map<string, Float64Array> {
  const { architecture, encoderLayers, decoderLayers } = model.config,
    theirs = new Map<string, Float64Array>();
  for (const { ours: name, from } of rowsOf({
    encoder: encoderLayers,
    decoder: architecture === "encoder" ? 0 : decoderLayers,
  })) {
    let rest = ours.get(name)!;
    const parts = from.reduce((sum, { shape: [rows] }) => sum + (rows === "2D" ? 2 : 1), 0),
      whole = rest.length;
    for (const {
      name: their,
      shape: [rows],
      rows: half,
    } of from) {
      const size = from.length === 1 ? whole : (whole * (rows === "2D" ? 2 : 1)) / parts;
      const before = half === "second half" ? theirs.get(their)! : [];
      theirs.set(their, Float64Array.of(...before, ...rest.subarray(0, size)));
      rest = rest.subarray(size);
    }
  }
  return theirs;
}
