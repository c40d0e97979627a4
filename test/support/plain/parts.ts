/** What the plain programs of the baselines are made of: loops in float64 over weights by name. */
import type { ModelConfig, Segment } from "../../../lib/index.ts";

export type Weights = ReadonlyMap<string, Float64Array>;
export type Vector = Float64Array;

/** What a plain model gives of a window from the state at time 0: a mean loss a segment, and the parts of the state. */
export interface PlainRun {
  readonly losses: number[];
  readonly state: number[][];
  /** The state before each segment, row by row, where no gradient flows through it. */
  readonly before?: readonly unknown[];
  /** A loss a segment of parameters that the others do not reach: those whose names contain `trains`. */
  readonly beside?: { readonly trains: string; readonly losses: number[] };
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
export function times(weight: Vector, x: Vector): Vector {
  const size = x.length;
  return Float64Array.from({ length: weight.length / size }, (_, o) => {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += weight[o * size + i]! * x[i]!;
    return sum;
  });
}

export function plus(a: Vector, b: Vector): Vector {
  return a.map((value, i) => value + b[i]!);
}

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** -log softmax(E h)_token. */
export function surprise(embedding: Vector, h: Vector, token: number): number {
  const logits = times(embedding, h),
    most = Math.max(...logits);
  return most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0)) - logits[token]!;
}

/** [last token of source, target without its last], and what is predicted. */
export function inputs(
  { source, target, length: T }: Segment,
  b: number,
  bos: number,
): { read: number[]; wanted: number[] } {
  const before = [...source.subarray(b * T, (b + 1) * T)].filter((token) => token >= 0),
    wanted = [...target.subarray(b * T, (b + 1) * T)];
  return { read: [before.at(-1) ?? bos, ...wanted.slice(0, -1)], wanted };
}

export function row(matrix: Vector, i: number, size: number): Vector {
  return matrix.slice(i * size, (i + 1) * size);
}

/** Means over the segments' targets of what `each` row's tokens cost. */
export function lossesOf(window: readonly Segment[], cost: (segment: Segment, b: number) => number): number[] {
  return window.map((segment) => {
    let sum = 0;
    for (let b = 0; b < segment.batch; b++) sum += cost(segment, b);
    return sum / Math.max(1, segment.target.filter((token) => token >= 0).length);
  });
}

/** The pieces of pre-LayerNorm layers of this configuration. */
export function layersOf(w: Weights, { width: D, heads: H, queryKeyNorm }: ModelConfig) {
  const E = D / H;
  const linear = (name: string, x: Vector): Vector => plus(times(w.get(`${name}.weight`)!, x), w.get(`${name}.bias`)!);
  const norm = (name: string, x: Vector): Vector => {
    const mean = x.reduce((sum, value) => sum + value, 0) / D,
      variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / D;
    const [gain, bias] = [w.get(`${name}.weight`)!, w.get(`${name}.bias`)!];
    return x.map((value, i) => ((value - mean) / Math.sqrt(variance + 1e-5)) * gain[i]! + bias[i]!);
  };
  /** Each head divided by its root mean square. */
  const rms = (x: Vector): Vector =>
    x.map((value, i) => {
      const head = x.subarray(i - (i % E), i - (i % E) + E);
      return value / Math.sqrt(head.reduce((sum, one) => sum + one * one, 0) / E + 1e-6);
    });
  const dot = (a: Vector, b: Vector, h: number): number => {
    let sum = 0;
    for (let e = h * E; e < (h + 1) * E; e++) sum += a[e]! * b[e]!;
    return sum;
  };
  return {
    linear,
    norm,
    rms,
    rmsIf: (x: Vector): Vector => (queryKeyNorm ? rms(x) : x),
    dot,
    /** Head by head the mean of `values` by the softmax of score(h, k) / sqrt(E). */
    read: (values: readonly Vector[], score: (h: number, k: number) => number): Vector => {
      const all = new Float64Array(D);
      for (let h = 0; h < H; h++) {
        const scores = values.map((_, k) => score(h, k) / Math.sqrt(E)),
          most = Math.max(...scores);
        const weights = scores.map((one) => Math.exp(one - most)),
          sum = weights.reduce((total, one) => total + one, 0);
        values.forEach((value, k) => {
          for (let e = h * E; e < (h + 1) * E; e++) all[e]! += (weights[k]! / sum) * value[e]!;
        });
      }
      return all;
    },
    /** x and the feed-forward layer's branch of it. */
    feedForward: (name: string, x: Vector): Vector => {
      const inner = linear(`${name}.up`, norm(`${name}.norm`, x)).map((a) => a * normal(a));
      return plus(x, linear(`${name}.down`, inner));
    },
  };
}

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
