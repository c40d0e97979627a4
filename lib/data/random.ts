// xoshiro128** by Blackman and Vigna, seeded by hashing: small, fast in 32-bit integers, and the same on every machine.

/**
 * Random numbers that depend on `seeds` alone. Several seeds name one stream among many: `new Random(seed, epoch)`.
 * Each seed is a whole number from 0 to 2^53 - 1.
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(...seeds: readonly number[]) {
    let mixed = 0;
    for (const seed of seeds) {
      mixed = scramble(mixed ^ (seed >>> 0));
      mixed = scramble(mixed + Math.floor(seed / 2 ** 32) + 1);
    }
    const fill = (): number => scramble((mixed = (mixed + 0x9e3779b9) | 0));
    [this.#a, this.#b, this.#c, this.#d] = [fill(), fill(), fill(), fill() | 1]; // never all zero
  }

  /** A whole number from 0 to 2^32 - 1. */
  next(): number {
    const result = Math.imul(rotate(Math.imul(this.#b, 5), 7), 9) >>> 0;
    const shifted = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= shifted;
    this.#d = rotate(this.#d, 11);
    return result;
  }

  /** A whole number from 0 to `count` - 1, all equally likely; `count` is at most 2^32. */
  below(count: number): number {
    const accepted = 2 ** 32 - (2 ** 32 % count);
    let drawn = this.next();
    while (drawn >= accepted) drawn = this.next();
    return drawn % count;
  }

  /** 0 … count - 1 in a random order. */
  permutation(count: number): Uint32Array {
    const order = Uint32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return order;
  }
}

function rotate(x: number, by: number): number {
  return (x << by) | (x >>> (32 - by));
}

function scramble(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return (x ^ (x >>> 15)) >>> 0;
}
