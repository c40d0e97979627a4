/** Byte-pair merging gives what its definition says, for the few symbols of a word and for many. */
import { expect } from "chai";
import fc from "fast-check";
import { mergePairs, type Merges } from "../lib/data/tokenizers/bpe.ts";

/** The definition: again and again the pair of the lowest rank, the leftmost of equals. */
function byDefinition(symbols: readonly number[], merges: Merges): number[] {
  const left = [...symbols];
  for (;;) {
    const ranks = left.slice(1).map((right, i) => merges.rank(left[i]!, right)),
      able = ranks.filter((rank) => rank >= 0);
    if (able.length === 0) return left;
    const at = ranks.indexOf(Math.min(...able));
    left.splice(at, 2, merges.merged(ranks[at]!));
  }
}

describe("merging pairs", () => {
  it("follows its definition, on both sides of the limit between few and many", () => {
    const pair = fc.tuple(fc.nat(12), fc.nat(12));
    const lengths = fc.oneof(
      fc.array(fc.nat(3), { maxLength: 12 }),
      fc.array(fc.nat(3), { minLength: 28, maxLength: 40 }),
    );
    fc.assert(
      fc.property(
        fc.uniqueArray(pair, { maxLength: 60, selector: ([left, right]) => left * 13 + right }),
        lengths,
        (pairs, symbols) => {
          const merges: Merges = {
            rank: (left, right) => pairs.findIndex(([first, second]) => first === left && second === right),
            merged: (rank) => 4 + (rank % 9),
          };
          const given = [...symbols];
          expect(mergePairs(symbols, merges)).to.eql(byDefinition(symbols, merges));
          expect(symbols).to.eql(given);
        },
      ),
      { numRuns: 2000 },
    );
  });
});
