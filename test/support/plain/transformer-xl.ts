/** Transformer-XL in plain loops. */
import type { ModelConfig } from "../../../lib/index.ts";
import {
  inputs,
  layersOf,
  lossesOf,
  plus,
  row,
  surprise,
  times,
  type PlainModel,
  type Vector,
  type Weights,
} from "./parts.ts";

/** What a row keeps of a token: the input of each layer. */
export type Kept = readonly Vector[];

/**
 * A row's segment behind the tokens `before` it, of which there are fewer or more: what its targets cost, and its own
 * layers' inputs. `besides`: what comes between a layer's attention and its feed-forward.
 */
export function relativeSegment(
  w: Weights,
  config: ModelConfig,
  { read, wanted }: { readonly read: readonly number[]; readonly wanted: readonly number[] },
  before: readonly Kept[],
  besides: (x: Vector, layer: number) => Vector = (x) => x,
): { cost: number; kept: Kept[]; hidden: Vector[] } {
  const { width: D, decoderLayers: L } = config;
  const { linear, norm, rmsIf, dot, read: readAll, feedForward } = layersOf(w, config),
    embedding = w.get("embedding.weight")!;
  const distance = (n: number): Vector =>
    Float64Array.from({ length: D }, (_, i) => {
      const k = i % (D / 2),
        angle = n / 10000 ** ((2 * k) / D);
      return i < D / 2 ? Math.sin(angle) : Math.cos(angle);
    });
  let x = read.map((token) => row(embedding, token < 0 ? 0 : token, D));
  const kept: Vector[][] = read.map(() => []);
  for (let layer = 0; layer < L; layer++) {
    const name = `decoder.${layer}.self_attention`;
    x.forEach((input, t) => kept[t]!.push(input));
    const [u, v] = [w.get(`${name}.content_bias`)!, w.get(`${name}.position_bias`)!];
    const byDistance = Array.from({ length: before.length + x.length }, (_, n) =>
      times(w.get(`${name}.relative.weight`)!, distance(n)),
    );
    // Keys: those before, the nearest at distance 1 from the first of the segment; then the segment's own.
    const keys = [
      ...before.map((token, i) => ({ from: token[layer]!, at: i - before.length })),
      ...x.flatMap((from, at) => [{ from, at }]),
    ].map(({ from, at }) => {
      const both = linear(`${name}.key_value`, norm(`${name}.norm`, from));
      return { at, key: rmsIf(both.slice(0, D)), value: both.slice(D) };
    });
    x = x.map((input, i) => {
      const q = rmsIf(linear(`${name}.query`, norm(`${name}.norm`, input)));
      const seen = keys.filter(({ at }) => at <= i && (at < 0 || at === i || wanted[at]! >= 0));
      const sum = readAll(
        seen.map(({ value }) => value),
        (h, k) => dot(plus(q, u), seen[k]!.key, h) + dot(plus(q, v), byDistance[i - seen[k]!.at]!, h),
      );
      return feedForward(`decoder.${layer}.feed_forward`, besides(plus(input, linear(`${name}.out`, sum)), layer));
    });
  }
  const hidden = x.map((h) => norm("decoder.norm", h));
  const cost = hidden.reduce((sum, h, t) => sum + (wanted[t]! < 0 ? 0 : surprise(embedding, h, wanted[t]!)), 0);
  return { cost, kept, hidden };
}

/** Rows of tokens as a part of the state: (B, L, places, D), each row's tokens at its end. */
export function rightAligned(rows: readonly (readonly Kept[])[], L: number, places: number, D: number): number[] {
  return rows.flatMap((tokens) =>
    Array.from({ length: L }, (_, layer) =>
      Array.from({ length: places }, (_, place) => [
        ...(tokens[place - places + tokens.length]?.[layer] ?? new Float64Array(D)),
      ]),
    ).flat(2),
  );
}

export const plainTransformerXl: PlainModel = (w, config, window, fixed) => {
  const { width: D, decoderLayers: L, cacheLength: C, bos } = config;
  const cache: Kept[][] = Array.from({ length: window[0]!.batch }, () => []);
  const met: Kept[][][] = window.map(() => []);
  const losses = lossesOf(window, (segment, b) => {
    if (segment.reset[b] !== 0) cache[b] = [];
    const tokens = inputs(segment, b, bos),
      place = window.indexOf(segment),
      before = (fixed as Kept[][][] | undefined)?.[place]![b] ?? cache[b]!;
    met[place]!.push(before);
    const { cost, kept } = relativeSegment(w, config, tokens, before);
    cache[b] = [...before, ...kept.filter((_, t) => tokens.wanted[t]! >= 0)].slice(-C);
    return cost;
  });
  return {
    losses,
    state: [rightAligned(cache, L, C, D), cache.map((tokens) => tokens.length)],
    before: met,
  };
};
