/** Decoding token by token, and the same without a cache: what the specs of decoding compare. */
import { expect } from "chai";
import {
  applyOperator,
  disposeSegment,
  PADDING,
  Random,
  Tensor,
  type CreateOptions,
  type Memformer,
  type State,
} from "../../lib/index.ts";
import { placed } from "../../lib/engine/tensor.ts";
import { baselines, numbers, perturb, recipeOptions, tinyModel } from "./models.ts";

/** Those that generate: of a Memformer, then the baselines. */
const memformers = ["encoder-decoder", "decoder"] as const;
export const architectures = [...memformers, "cached-decoder", ...baselines] as const;
/** Every architecture, position scheme and writer, and the options that decoding could get wrong. */
export const settings: CreateOptions[] = [
  ...memformers.flatMap((architecture) =>
    (["rotary", "relative", "t5"] as const).flatMap((position) =>
      (["slot-attention", "gru"] as const).map((writer) => ({ architecture, position, writer })),
    ),
  ),
  ...memformers.flatMap((architecture) => recipeOptions.map((options) => ({ architecture, ...options }))),
  { architecture: "encoder-decoder", shareEmbedding: false, tieEmbedding: false, outputBias: true },
  { architecture: "decoder", tieEmbedding: false, outputBias: true, writerSteps: 2 },
  { architecture: "decoder", memoryNorm: false },
  { architecture: "encoder-decoder", position: "t5", positionBuckets: "lucidrains" },
  { architecture: "decoder", forgetting: "normalize-only" },
  { architecture: "encoder-decoder", forgetting: "none", heads: 1 },
  { architecture: "cached-decoder" },
  { architecture: "cached-decoder", cacheLength: 2, queryKeyNorm: true, writerQueryKeyNorm: true },
  { architecture: "cached-decoder", cacheLength: 40, constantSlots: 2, writerValues: "normed" },
  { architecture: "cached-decoder", memory: false, memoryNorm: false },
  { architecture: "cached-decoder", readGate: true, writer: "gru", forgettingBias: 0.1, forgettingScaled: true },
  { architecture: "lstm" },
  { architecture: "lstm", memory: false, tieEmbedding: false },
  { architecture: "transformer-xl" },
  { architecture: "transformer-xl", cacheLength: 2, queryKeyNorm: true },
  { architecture: "transformer-xl", cacheLength: 40, embeddingNorm: true },
  { architecture: "compressive-transformer" },
  { architecture: "compressive-transformer", cacheLength: 2, compressionRate: 3, compressedLength: 1 },
  { architecture: "compressive-transformer", cacheLength: 5, compressionRate: 1, queryKeyNorm: true },
  { architecture: "compressive-transformer", memory: false, compressionRate: 9 },
  { architecture: "rmt" },
  { architecture: "rmt", position: "relative", embeddingNorm: true },
  { architecture: "rmt", position: "t5", memorySlots: 7, queryKeyNorm: true },
  { architecture: "rmt", memory: false, memorySlots: 1 },
  { architecture: "gated-delta" },
  { architecture: "gated-delta", heads: 1, embeddingNorm: true },
  { architecture: "gated-delta", memory: false, tieEmbedding: false, decoderLayers: 1 },
];

/** One row's document, as a session sees it: its segments one after the other. */
export interface Row {
  previous: Int32Array | undefined;
  state: State;
  readonly tokens: readonly number[];
}

export function open(model: Memformer, { previous }: Row): ReturnType<Memformer["upload"]> {
  const { segmentLength: T, bos } = model.config;
  return model.upload({
    batch: 1,
    length: T,
    source: previous ?? new Int32Array(T).fill(PADDING).fill(bos, 0, 1),
    target: new Int32Array(T).fill(PADDING),
    reset: Uint8Array.of(previous === undefined ? 1 : 0),
  });
}

export function draw(model: Memformer, segments: number, seed: number): number[] {
  const random = new Random(seed);
  return Array.from({ length: segments * model.config.segmentLength }, () => random.below(model.config.bos));
}

/** Logits of every position, and the states at the borders, without a cache. */
export async function uncached(
  model: Memformer,
  tokens: readonly number[],
): Promise<{ logits: number[][]; states: number[][] }> {
  const { segmentLength: T } = model.config;
  const row: Row = { previous: undefined, state: model.initialState(1), tokens };
  const logits: number[][] = [],
    states: number[][] = [];
  for (let from = 0; from < tokens.length; from += T) {
    const segment = open(model, row);
    for (let p = 0; p < T; p++) {
      using prefix = Tensor.from(Int32Array.from(tokens.slice(from, from + p)), [1, p]);
      logits.push((await numbers([model.logits(segment, prefix, row.state)]))[0]!);
    }
    const target = Int32Array.from(tokens.slice(from, from + T));
    const whole = model.upload({
      batch: 1,
      length: T,
      source: row.previous ?? new Int32Array(T).fill(PADDING).fill(model.config.bos, 0, 1),
      target,
      reset: Uint8Array.of(row.previous === undefined ? 1 : 0),
    });
    row.state = model.advance(whole, row.state);
    states.push(Array.from(await row.state[0]!.data(), Number));
    row.previous = target;
  }
  return { logits, states };
}

/** The same by a decoder. `chunk`: tokens that are fed at once. */
export async function cached(
  model: Memformer,
  tokens: readonly number[],
  chunk = 1,
): Promise<{ logits: number[][]; states: number[][] }> {
  const { segmentLength: T } = model.config;
  using decoder = model.decoder();
  const row: Row = { previous: undefined, state: model.initialState(1), tokens };
  const logits: number[][] = [],
    states: number[][] = [];
  for (let from = 0; from < tokens.length; from += T) {
    logits.push((await numbers([decoder.begin(open(model, row), row.state)]))[0]!);
    for (let p = 0; p < T - 1; p += chunk) {
      const some = tokens.slice(from + p, from + Math.min(p + chunk, T - 1));
      logits.push((await numbers([some.length === 1 ? decoder.step(some) : decoder.prefill(some)]))[0]!);
    }
    row.state = decoder.end();
    states.push(Array.from(await row.state[0]!.data(), Number));
    row.previous = Int32Array.from(tokens.slice(from, from + T));
  }
  return { logits, states };
}

/** The largest difference, in units of the largest number. */
export function apart(found: readonly number[][], wanted: readonly number[][]): number {
  expect(found.map((row) => row.length)).to.deep.equal(wanted.map((row) => row.length));
  let worst = 0,
    size = 1;
  for (const [i, row] of wanted.entries())
    for (const [j, value] of row.entries()) {
      expect(found[i]![j]).to.be.finite;
      worst = Math.max(worst, Math.abs(found[i]![j]! - value));
      size = Math.max(size, Math.abs(value));
    }
  return worst / size;
}

/**
 * A tiny model's decoder gives over three segments what computing everything anew gives, in float64 and in float32;
 * `states`: how many times the bound states may be apart.
 */
export async function expectAsUncached(setting: CreateOptions, states = 1): Promise<void> {
  for (const [precision, allowed] of [
    ["float64", 1e-12],
    ["float32", 1e-5],
  ] as const) {
    await using model = await tinyModel({ segmentLength: 5, ...setting, precision });
    await perturb(model, 0.2);
    const tokens = draw(model, 3, 7);
    const wanted = await uncached(model, tokens),
      found = await cached(model, tokens);
    expect(apart(found.logits, wanted.logits), `logits, ${precision}`).to.be.at.most(allowed);
    expect(apart(found.states, wanted.states), `states, ${precision}`).to.be.at.most(states * allowed);
  }
}

/**
 * Rows whose segments begin and end together get the bits that each gets alone: logits and states, over three segments.
 */
export async function expectBordersTogether(options: CreateOptions, R: number): Promise<void> {
  await using model = await tinyModel({ segmentLength: 5, ...options });
  await perturb(model, 0.2);
  const { segmentLength: T, bos, vocabulary: V } = model.config;
  const documents = Array.from({ length: R }, (_, r) => draw(model, 3, 40 + r)),
    slots = documents.map((_, r) => r);
  const alone = [];
  for (const tokens of documents) alone.push(await cached(model, tokens));
  using decoder = model.decoder(R);
  const at = (p: number): number[] => documents.map((tokens) => tokens[p]!);
  let state = model.initialState(R);
  for (let from = 0; from < 3 * T; from += T) {
    const opened = Int32Array.from({ length: R * T }, (_, i) => (i % T === 0 ? bos : PADDING));
    const segment = model.upload({
      batch: R,
      length: T,
      source: from === 0 ? opened : Int32Array.from(documents.flatMap((tokens) => tokens.slice(from - T, from))),
      target: new Int32Array(R * T).fill(PADDING),
      reset: new Uint8Array(R).fill(from === 0 ? 1 : 0),
    });
    for (let p = from; p < from + T; p++) {
      using logits = p === from ? decoder.begin(segment, state, slots) : decoder.step(at(p - 1), slots);
      const [found] = await numbers([logits]);
      for (const r of slots)
        expect(found!.slice(r * V, (r + 1) * V), `row ${r}, token ${p}`).to.deep.equal(alone[r]!.logits[p]);
    }
    disposeSegment(segment);
    state = decoder.end(slots);
    const all = Array.from(await state[0]!.data(), Number),
      size = all.length / R;
    for (const r of slots)
      expect(all.slice(r * size, (r + 1) * size), `row ${r}`).to.deep.equal(alone[r]!.states[from / T]);
  }
}

/** A run draws what the same draws give one after the other, to the bit, each row in its own place. */
export async function expectRuns(options: CreateOptions): Promise<void> {
  await using model = await tinyModel(options);
  await perturb(model, 0.2);
  const { bos, vocabulary } = model.config,
    row: Row = { previous: undefined, state: model.initialState(1), tokens: [] },
    slots = [1, 0];
  using decoder = model.decoder(2);
  const here = (values: Float32Array | Float64Array, shape: number[]): Tensor =>
    placed(Tensor.from(values, shape), model.device);
  using gaps = here(new Float32Array(vocabulary).fill(-Infinity, 3, 9), [1, vocabulary]);
  const begin = (): Tensor => {
    const logits = slots.map((slot) => decoder.begin(open(model, row), row.state, [slot]));
    logits[1] = decoder.prefill([4, 7], 0);
    return applyOperator("aten::cat", logits, 0);
  };
  const sampling = { temperature: 0.9, topK: 5, topP: 0.95, tokens: bos, gaps },
    points = Float64Array.of(0.1, 0.9, 0.5, 0.4, 0.8, 0.2);
  const tokens: number[] = [];
  let logits = begin();
  for (let n = 0; n < 3; n++) {
    const at = here(points.slice(2 * n, 2 * n + 2), [2]),
      allowed = applyOperator("aten::add.Tensor", logits, gaps);
    const drawn = applyOperator("memformer::sample_token", allowed, at, 0.9, 5, 0.95, bos, bos);
    tokens.push(...(await numbers([drawn]))[0]!);
    if (n < 2) logits = decoder.step(tokens.slice(-2), slots);
  }
  const [before] = await numbers([logits]);
  let run = decoder.run(begin(), points, sampling, slots, false);
  expect(await numbers([run.tokens, run.logits])).to.deep.equal([tokens, before]);
  expect(slots.map((slot) => decoder.position(slot))).to.deep.equal([2, 4]);
  expect(tokens.every((token) => token >= 0 && (token < 3 || token >= 9))).to.be.true;
  // A row that draws less, beside one that draws as before: each goes on from where it stands.
  run = decoder.run(begin(), points, sampling, slots, true, [3, 2]);
  const [shorter, after] = await numbers([run.tokens, run.logits]);
  expect(shorter).to.deep.equal([...tokens.slice(0, 5), -1]);
  expect(slots.map((slot) => decoder.position(slot))).to.deep.equal([3, 3]);
  expect((await numbers([decoder.step(tokens.slice(3, 4), [0])]))[0]).to.deep.equal(before!.slice(vocabulary));
  run = decoder.run(begin(), points, sampling, slots);
  expect((await numbers([run.logits]))[0]!.slice(0, vocabulary)).to.deep.equal(after);
  // The same in two runs.
  run = decoder.run(begin(), points.slice(0, 2), sampling, slots);
  const [first] = await numbers([run.tokens]);
  run = decoder.run(run.logits, points.slice(2), sampling, slots, false);
  expect([...first!, ...(await numbers([run.tokens]))[0]!]).to.deep.equal(tokens);
}
