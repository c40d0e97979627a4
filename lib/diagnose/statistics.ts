/**
 * Statistics of tensors of hidden states and memories, as plain functions of their numbers, all over (B, N, D).
 */

/** Numbers (B, N, D) with their sizes. */
export interface Cube {
  readonly shape: readonly number[];
  readonly data: ArrayLike<number>;
}

/**
 * Shares of the mean square: what differs along N inside a row, and what differs between rows at the same place of N.
 * 0: all alike.
 */
export interface Shares {
  readonly alongN: number;
  readonly alongB: number;
}

/** Places for which `real` is false are left out along N; rows then have no place in common, and `alongB` is NaN. */
export function shares({ shape, data }: Cube, real?: (b: number, n: number) => boolean): Shares {
  const [B = 0, N = 0, D = 0] = shape;
  let square = 0,
    within = 0,
    count = 0;
  for (let b = 0; b < B; b++) {
    const sum = new Float64Array(D);
    let own = 0,
      places = 0;
    for (let n = 0; n < N; n++) {
      if (real?.(b, n) === false) continue;
      places += 1;
      for (let d = 0; d < D; d++) {
        const value = data[(b * N + n) * D + d]!;
        sum[d]! += value;
        own += value * value;
      }
    }
    square += own;
    count += places;
    if (places > 0) within += own - sum.reduce((total, value) => total + value * value, 0) / places;
  }
  return {
    alongN: count === 0 ? NaN : within / square,
    alongB: real === undefined ? betweenRows({ shape, data }) / square : NaN,
  };
}

function betweenRows({ shape, data }: Cube): number {
  const [B = 0, N = 0, D = 0] = shape;
  let between = 0;
  for (let i = 0; i < N * D; i++) {
    let sum = 0,
      square = 0;
    for (let b = 0; b < B; b++) {
      const value = data[b * N * D + i]!;
      sum += value;
      square += value * value;
    }
    between += square - (sum * sum) / B;
  }
  return between;
}

/** Norms of the last axis. */
export function norms({ shape, data }: Cube): number[] {
  const D = shape.at(-1)!,
    count = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  return Array.from({ length: count }, (_, i) => {
    let square = 0;
    for (let d = 0; d < D; d++) square += data[i * D + d]! ** 2;
    return Math.sqrt(square);
  });
}

export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b),
    half = sorted.length >> 1;
  return sorted.length === 0 ? NaN : sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** The lower quartile, the middle and the upper quartile. */
export function quartiles(numbers: readonly number[]): [number, number, number] {
  const sorted = [...numbers].sort((a, b) => a - b);
  const at = (share: number): number => {
    const place = share * (sorted.length - 1),
      below = Math.floor(place);
    return sorted[below]! + (place - below) * (sorted[Math.min(below + 1, sorted.length - 1)]! - sorted[below]!);
  };
  return [at(0.25), at(0.5), at(0.75)];
}

/**
 * What slots do with a segment, by their weight on themselves (the mean of their heads): keep (0.9 and more), are
 * overwritten (0.1 and less), or mix.
 */
export interface SlotClasses {
  readonly latching: number;
  readonly mixing: number;
  readonly overwritten: number;
}

/** What a slot does, by its weight on itself. */
export type SlotClass = keyof SlotClasses;

export function slotClass(weight: number): SlotClass {
  return weight >= 0.9 ? "latching" : weight <= 0.1 ? "overwritten" : "mixing";
}

/** Shares of all slots; weights (B, H, M). */
export function slotClasses({ shape, data }: Cube): SlotClasses {
  const classes = slotMeans({ shape, data }).map(slotClass);
  const share = (wanted: SlotClass): number => classes.filter((found) => found === wanted).length / classes.length;
  const latching = share("latching"),
    overwritten = share("overwritten");
  return { latching, mixing: 1 - latching - overwritten, overwritten };
}

/** The mean over heads of (B, H, M): B x M numbers. */
export function slotMeans({ shape, data }: Cube): number[] {
  const [B = 0, H = 0, M = 0] = shape;
  return Array.from({ length: B * M }, (_, i) => {
    const b = Math.floor(i / M),
      m = i % M;
    let sum = 0;
    for (let h = 0; h < H; h++) sum += data[(b * H + h) * M + m]!;
    return sum / H;
  });
}

/**
 * Segments in which a slot loses half of what it holds, that puts `weight` on itself and has a bias v of norm `bias`.
 */
export function halfLife(weight: number, bias: number): number {
  return Math.LN2 / Math.log((1 + bias) / Math.max(weight, 1e-9));
}
