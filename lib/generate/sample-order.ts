/**
 * Where in the order of likelihood a draw falls, without sorting all tokens (native/ops/sample_token does the same in
 * C++): what comes before the middle is set apart, its mass summed, and the half that the draw falls into is halved
 * again. Sums in another order differ in their last bits; where those could decide, the tokens are sorted and walked
 * through one after the other.
 */

/** Tokens to draw from, in any order, and each token's mass: exp((its logit - the largest) / temperature). */
export interface Candidates {
  readonly logits: Float64Array;
  readonly order: Int32Array;
  readonly mass: Float64Array;
}

/**
 * The likeliest token, the first of several. Undefined where none can be drawn: a logit is NaN or infinite, or all are
 * -Infinity.
 */
export function likeliest(logits: Float64Array): number | undefined {
  let best: number | undefined,
    top = -Infinity;
  for (let token = 0; token < logits.length; token++) {
    const logit = logits[token]!;
    if (!(logit < Infinity)) return undefined;
    if (logit > top) [best, top] = [token, logit];
  }
  return best;
}

/** The k likeliest tokens, in any order. */
export function likeliestOf(logits: Float64Array, k: number): Int32Array {
  const all = new Int32Array(logits.length);
  for (let token = 0; token < all.length; token++) all[token] = token;
  if (k < all.length) split(logits, all, 0, all.length, k);
  return all.subarray(0, k);
}

/** The token at `u` of [0, 1) of the mass of those likeliest ones that hold the share `topP` of it all. */
export function tokenAt(candidates: Candidates, topP: number, u: number): number {
  const { order } = candidates,
    total = massOf(candidates, 0, order.length),
    slack = 8 * Number.EPSILON * order.length * total;
  let count = order.length,
    held = total;
  if (topP < 1) {
    const edge = passing(candidates, count, topP * total, total, slack);
    if (edge === undefined) return walk(candidates, topP, u);
    count = edge + 1;
    held = massOf(candidates, 0, count);
  }
  const place = count === 1 ? 0 : passing(candidates, count, u * held, held, slack);
  return place === undefined ? walk(candidates, topP, u) : order[place]!;
}

/** Moves the likelier ones of the tokens in places `from` to `to` before place `at`. */
function split(logits: Float64Array, order: Int32Array, from: number, to: number, at: number): void {
  for (let left = from, right = to - 1; left < right;) {
    // Somewhere in between: no order that a model may well give is the worst one.
    const token = order[left + ((Math.imul(left ^ right, 0x9e3779b1) >>> 0) % (right - left + 1))]!;
    const logit = logits[token]!;
    let i = left,
      j = right;
    while (i <= j) {
      // While order[i] is likelier than the token, and the token likelier than order[j].
      for (
        let other = logits[order[i]!]!;
        other > logit || (other === logit && order[i]! < token);
        other = logits[order[i]!]!
      )
        i++;
      for (
        let other = logits[order[j]!]!;
        logit > other || (other === logit && token < order[j]!);
        other = logits[order[j]!]!
      )
        j--;
      if (i <= j) {
        const moved = order[i]!;
        order[i++] = order[j]!;
        order[j--] = moved;
      }
    }
    if (at <= j) right = j;
    else if (at >= i) left = i;
    else return;
  }
}

/**
 * The place of the first token, likeliest first, with which the cumulated mass passes `target`; the likelier ones come
 * to lie before it. `whole`: the mass of the first `count`. Undefined where rounding, of at most `slack`, could decide.
 */
function passing(
  candidates: Candidates,
  count: number,
  target: number,
  whole: number,
  slack: number,
): number | undefined {
  if (whole - target <= slack) return undefined;
  let first = 0,
    last = count,
    passed = 0;
  while (last - first > 1) {
    const middle = first + Math.floor((last - first) / 2);
    split(candidates.logits, candidates.order, first, last, middle);
    const upper = passed + massOf(candidates, first, middle);
    if (Math.abs(upper - target) <= slack) return undefined;
    if (target < upper) last = middle;
    else [first, passed] = [middle, upper];
  }
  return first;
}

/** By sums one after the other, from the likeliest token on. */
function walk({ logits, order, mass }: Candidates, topP: number, u: number): number {
  order.sort((a, b) => logits[b]! - logits[a]! || a - b);
  let total = 0,
    nucleus = 0,
    held = 0;
  for (const token of order) total += mass[token]!;
  while (nucleus < order.length && (nucleus === 0 || held < topP * total)) held += mass[order[nucleus++]!]!;
  let point = u * held;
  for (let i = 0; i < nucleus; i++) {
    point -= mass[order[i]!]!;
    if (point < 0) return order[i]!;
  }
  return order[nucleus - 1]!;
}

function massOf({ order, mass }: Candidates, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum += mass[order[i]!]!;
  return sum;
}
