/** The decoder with a cache in plain loops, with the options of tinyModel: a memory beside Transformer-XL's layers. */
import type { ModelConfig } from "../../../lib/index.ts";
import { inputs, layersOf, lossesOf, plus, row, times, type PlainModel, type Vector, type Weights } from "./parts.ts";
import { relativeSegment, rightAligned, type Kept } from "./transformer-xl.ts";

type Slots = readonly Vector[];

const length = (x: Vector): number => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));

/** Biased memory normalization. */
const forgotten = (slots: Slots, bias: Slots): Slots =>
  slots.map((slot, m) => {
    const sum = plus(slot, bias[m]!);
    return sum.map((value) => value / Math.max(length(sum), 1e-6));
  });

/** What a token in a layer reads of the slots, added to it. */
function read(w: Weights, config: ModelConfig, x: Vector, slots: Slots, layer: number): Vector {
  const { linear, norm, rmsIf, dot, read: readAll } = layersOf(w, config),
    name = `decoder.${layer}.memory_read`,
    D = config.width;
  const q = rmsIf(linear(`${name}.query`, norm(`${name}.norm`, x)));
  const pairs = slots.map((slot) => linear(`${name}.key_value`, norm(`${name}.memory_norm`, slot)));
  const sum = readAll(
    pairs.map((pair) => pair.slice(D)),
    (h, m) => dot(q, rmsIf(pairs[m]!.slice(0, D)), h),
  );
  return plus(x, linear(`${name}.out`, sum));
}

/** Slot attention: each slot by itself and the tokens `x`; nothing changes without tokens. */
function written(w: Weights, config: ModelConfig, slots: Slots, x: readonly Vector[]): Slots {
  const { norm, dot } = layersOf(w, config),
    { width: D, heads, writerTemperature } = config;
  const of = (name: string, value: Vector): Vector => times(w.get(`writer.${name}.weight`)!, value),
    keys = x.map((token) => of("key", token)),
    values = x.map((token) => of("value", token));
  const scale = 1 / (Math.sqrt(D / heads) * writerTemperature);
  return slots.map((slot) => {
    const normed = norm("writer.norm", slot),
      q = of("query", normed),
      all = new Float64Array(D);
    for (let h = 0; h < heads; h++) {
      const logits = [of("key", normed), ...keys].map((key) => dot(q, key, h) * scale),
        most = Math.max(...logits),
        shares = logits.map((logit) => Math.exp(logit - most)),
        whole = shares.reduce((sum, share) => sum + share, 0);
      for (let e = (h * D) / heads; e < ((h + 1) * D) / heads; e++)
        all[e] = shares.reduce((sum, share, k) => sum + (share / whole) * (k === 0 ? slot[e]! : values[k - 1]![e]!), 0);
    }
    return all;
  });
}

export const plainCachedDecoder: PlainModel = (w, config, window, fixed) => {
  const { width: D, decoderLayers: L, cacheLength: C, memorySlots: M, bos } = config;
  const bias = Array.from({ length: M }, (_, m) => row(w.get("writer.v_bias")!, m, D)),
    start = forgotten(
      bias.map(() => new Float64Array(D)),
      bias,
    );
  const cache: Kept[][] = Array.from({ length: window[0]!.batch }, () => []),
    memory: Slots[] = cache.map(() => start);
  const met: Kept[][][] = window.map(() => []);
  const losses = lossesOf(window, (segment, b) => {
    if (segment.reset[b] !== 0) {
      cache[b] = [];
      memory[b] = start;
    }
    const tokens = inputs(segment, b, bos),
      place = window.indexOf(segment),
      before = (fixed as Kept[][][] | undefined)?.[place]![b] ?? cache[b]!;
    met[place]!.push(before);
    const slots = memory[b]!;
    const { cost, kept, hidden } = relativeSegment(w, config, tokens, before, (x, layer) =>
      read(w, config, x, slots, layer),
    );
    const real = hidden.filter((_, t) => tokens.wanted[t]! >= 0);
    if (real.length > 0) memory[b] = forgotten(written(w, config, slots, real), bias);
    cache[b] = [...before, ...kept.filter((_, t) => tokens.wanted[t]! >= 0)].slice(-C);
    return cost;
  });
  return {
    losses,
    state: [
      memory.flatMap((slots) => slots.flatMap((slot) => [...slot])),
      rightAligned(cache, L, C, D),
      cache.map((tokens) => tokens.length),
    ],
    before: met,
  };
};
