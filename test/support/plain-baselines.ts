/** The baselines as plain loops in float64, from weights by name and segments to losses: what proves the engine's. */
import type { ModelConfig, Segment } from "../../lib/index.ts";

export type Weights = ReadonlyMap<string, Float64Array>;
type Vector = Float64Array;

/** What a plain model gives of a window from the state at time 0: a mean loss a segment, and the parts of the state. */
export interface PlainRun {
  readonly losses: number[];
  readonly state: number[][];
  /** The state before each segment, row by row, where no gradient flows through it. */
  readonly before?: readonly unknown[];
}
/**
 * `before`: of another run, from which every segment starts in place of what the one before has left: differences of
 * such runs are gradients that stop at a segment's start.
 */
export type PlainModel = (
  w: Weights,
  config: ModelConfig,
  window: readonly Segment[],
  before?: readonly unknown[],
) => PlainRun;

/** W x, of W (out, in). */
function times(weight: Vector, x: Vector): Vector {
  const size = x.length;
  return Float64Array.from({ length: weight.length / size }, (_, o) => {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += weight[o * size + i]! * x[i]!;
    return sum;
  });
}

function plus(a: Vector, b: Vector): Vector {
  return a.map((value, i) => value + b[i]!);
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** -log softmax(E h)_token. */
function surprise(embedding: Vector, h: Vector, token: number): number {
  const logits = times(embedding, h),
    most = Math.max(...logits);
  return most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0)) - logits[token]!;
}

/** [last token of source, target without its last], and what is predicted. */
function inputs({ source, target, length: T }: Segment, b: number, bos: number): { read: number[]; wanted: number[] } {
  const before = [...source.subarray(b * T, (b + 1) * T)].filter((token) => token >= 0),
    wanted = [...target.subarray(b * T, (b + 1) * T)];
  return { read: [before.at(-1) ?? bos, ...wanted.slice(0, -1)], wanted };
}

function row(matrix: Vector, i: number, size: number): Vector {
  return matrix.slice(i * size, (i + 1) * size);
}

/** Means over the segments' targets of what `each` row's tokens cost. */
function lossesOf(window: readonly Segment[], cost: (segment: Segment, b: number) => number): number[] {
  return window.map((segment) => {
    let sum = 0;
    for (let b = 0; b < segment.batch; b++) sum += cost(segment, b);
    return sum / Math.max(1, segment.target.filter((token) => token >= 0).length);
  });
}

export const plainLstm: PlainModel = (w, { width: D, decoderLayers: L, bos }, window) => {
  const embedding = w.get("embedding.weight")!;
  const zeros = (): Vector[] => Array.from({ length: L }, () => new Float64Array(D));
  const h = Array.from({ length: window[0]!.batch }, zeros),
    c = Array.from({ length: window[0]!.batch }, zeros);
  const losses = lossesOf(window, (segment, b) => {
    if (segment.reset[b] !== 0) [h[b], c[b]] = [zeros(), zeros()];
    const { read, wanted } = inputs(segment, b, bos);
    let sum = 0;
    read.forEach((token, t) => {
      if (wanted[t]! < 0) return; // padding moves nothing
      let x = row(embedding, token < 0 ? 0 : token, D); // padding before it counts as token 0
      for (let layer = 0; layer < L; layer++) {
        const gates = plus(
          plus(times(w.get(`lstm.${layer}.input.weight`)!, x), w.get(`lstm.${layer}.input.bias`)!),
          times(w.get(`lstm.${layer}.hidden.weight`)!, h[b]![layer]!),
        );
        const gate = (k: number, i: number): number => gates[k * D + i]!;
        c[b]![layer] = c[b]![layer]!.map(
          (value, i) => sigmoid(gate(1, i)) * value + sigmoid(gate(0, i)) * Math.tanh(gate(2, i)),
        );
        x = c[b]![layer]!.map((value, i) => sigmoid(gate(3, i)) * Math.tanh(value));
        h[b]![layer] = x;
      }
      sum += surprise(embedding, x, wanted[t]!);
    });
    return sum;
  });
  return { losses, state: [h, c].map((part) => part.flatMap((layers) => layers.flatMap((vector) => [...vector]))) };
};

/** What a row of Transformer-XL keeps of a token: the input of each layer. */
type Kept = readonly Vector[];

export const plainTransformerXl: PlainModel = (w, config, window, fixed) => {
  const { width: D, heads: H, decoderLayers: L, cacheLength: C, bos, queryKeyNorm } = config;
  const E = D / H,
    embedding = w.get("embedding.weight")!;
  const linear = (name: string, x: Vector): Vector => plus(times(w.get(`${name}.weight`)!, x), w.get(`${name}.bias`)!);
  const norm = (name: string, x: Vector): Vector => {
    const mean = x.reduce((sum, value) => sum + value, 0) / D,
      variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / D;
    const [gain, bias] = [w.get(`${name}.weight`)!, w.get(`${name}.bias`)!];
    return x.map((value, i) => ((value - mean) / Math.sqrt(variance + 1e-5)) * gain[i]! + bias[i]!);
  };
  const rms = (x: Vector): Vector => {
    if (!queryKeyNorm) return x;
    return x.map((value, i) => {
      const head = x.subarray(i - (i % E), i - (i % E) + E);
      return value / Math.sqrt(head.reduce((sum, one) => sum + one * one, 0) / E + 1e-6);
    });
  };
  const distance = (n: number): Vector =>
    Float64Array.from({ length: D }, (_, i) => {
      const k = i % (D / 2),
        angle = n / 10000 ** ((2 * k) / D);
      return i < D / 2 ? Math.sin(angle) : Math.cos(angle);
    });
  const dot = (a: Vector, b: Vector, h: number): number => {
    let sum = 0;
    for (let e = h * E; e < (h + 1) * E; e++) sum += a[e]! * b[e]!;
    return sum;
  };

  const cache: Kept[][] = Array.from({ length: window[0]!.batch }, () => []);
  const met: Kept[][][] = window.map(() => []);
  const losses = lossesOf(window, (segment, b) => {
    if (segment.reset[b] !== 0) cache[b] = [];
    const { read, wanted } = inputs(segment, b, bos),
      place = window.indexOf(segment),
      before = (fixed as Kept[][][] | undefined)?.[place]![b] ?? cache[b]!;
    met[place]!.push(before);
    let x = read.map((token) => row(embedding, token < 0 ? 0 : token, D));
    const kept: Vector[][] = read.map(() => []);
    for (let layer = 0; layer < L; layer++) {
      const name = `decoder.${layer}.self_attention`,
        forward = `decoder.${layer}.feed_forward`;
      x.forEach((input, t) => kept[t]!.push(input));
      const [u, v] = [w.get(`${name}.content_bias`)!, w.get(`${name}.position_bias`)!];
      // Keys: the cached tokens, the nearest at distance 1 from the first of the segment; then the segment's own.
      const keys = [
        ...before.map((token, i) => ({ from: token[layer]!, at: i - before.length })),
        ...x.flatMap((from, at) => [{ from, at }]),
      ].map(({ from, at }) => {
        const both = linear(`${name}.key_value`, norm(`${name}.norm`, from));
        return { at, key: rms(both.slice(0, D)), value: both.slice(D) };
      });
      x = x.map((input, i) => {
        const q = rms(linear(`${name}.query`, norm(`${name}.norm`, input)));
        const seen = keys.filter(({ at }) => at <= i && (at < 0 || at === i || wanted[at]! >= 0));
        const read = new Float64Array(D);
        for (let h = 0; h < H; h++) {
          const scores = seen.map(
            ({ at, key }) =>
              (dot(plus(q, u), key, h) +
                dot(plus(q, v), times(w.get(`${name}.relative.weight`)!, distance(i - at)), h)) /
              Math.sqrt(E),
          );
          const most = Math.max(...scores),
            weights = scores.map((score) => Math.exp(score - most)),
            sum = weights.reduce((all, one) => all + one, 0);
          seen.forEach(({ value }, k) => {
            for (let e = h * E; e < (h + 1) * E; e++) read[e]! += (weights[k]! / sum) * value[e]!;
          });
        }
        return plus(input, linear(`${name}.out`, read));
      });
      x = x.map((input) => {
        const inner = linear(`${forward}.up`, norm(`${forward}.norm`, input)).map((a) => a * normal(a));
        return plus(input, linear(`${forward}.down`, inner));
      });
    }
    cache[b] = [...before, ...kept.filter((_, t) => wanted[t]! >= 0)].slice(-C);
    return x.reduce(
      (sum, h, t) => sum + (wanted[t]! < 0 ? 0 : surprise(embedding, norm("decoder.norm", h), wanted[t]!)),
      0,
    );
  });
  const state = cache.flatMap((tokens) =>
    Array.from({ length: L }, (_, layer) =>
      Array.from({ length: C }, (_, place) => [...(tokens[place - C + tokens.length]?.[layer] ?? new Float64Array(D))]),
    ).flat(2),
  );
  return { losses, state: [state, cache.map((tokens) => tokens.length)], before: met };
};

/** The normal distribution's share below x, to about 1e-15: the series of erf near 0, a continued fraction far out. */
function normal(x: number): number {
  const z = Math.abs(x) / Math.SQRT2;
  let tail: number; // erfc(z)
  if (z < 2.5) {
    let term = z,
      sum = z;
    for (let n = 1; Math.abs(term) > 1e-18; n++) {
      term *= -(z * z) / n;
      sum += term / (2 * n + 1);
    }
    tail = 1 - (2 / Math.sqrt(Math.PI)) * sum;
  } else {
    let fraction = 0;
    for (let n = 120; n > 0; n--) fraction = n / 2 / (z + fraction);
    tail = Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + fraction);
  }
  return x < 0 ? tail / 2 : 1 - tail / 2;
}
