/** Handing segments to the engine: what is counted of each row, and what is refused. */
import { expect } from "chai";
import fc from "fast-check";
import { disposeSegment, uploadSegment, type Segment } from "../lib/index.ts";
import { scoredTargets } from "../lib/model/segment-tensors.ts";
import { failure } from "./support/failure.ts";

const segmentOf = (batch: number, length: number, source: readonly number[], target: readonly number[]): Segment => ({
  batch,
  length,
  source: Int32Array.from(source),
  target: Int32Array.from(target),
  reset: new Uint8Array(batch),
});

describe("uploading a segment", () => {
  it("counts each row's scored targets, and the tokens before padding where nothing follows it", async () => {
    const rows = fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 6 })).chain(([batch, length]) => {
      // Mostly suffixes of padding, sometimes holes.
      const row = fc
        .tuple(
          fc.nat(length),
          fc.array(fc.nat(9), { minLength: length, maxLength: length }),
          fc.integer({ min: 0, max: 20 }),
        )
        .map(([tokens, ids, hole]) => ids.map((id, t) => (t >= tokens || t === hole ? -1 : id)));
      const half = fc.array(row, { minLength: batch, maxLength: batch });
      return fc.record({ batch: fc.constant(batch), length: fc.constant(length), source: half, target: half });
    });
    await fc.assert(
      fc.asyncProperty(rows, async ({ batch, length, source, target }) => {
        const segment = uploadSegment(segmentOf(batch, length, source.flat(), target.flat()), 10);
        const count = (row: number[]): number => row.filter((token) => token >= 0).length;
        const first = (row: number[]): number => (row.indexOf(-1) < 0 ? length : row.indexOf(-1));
        const whole = [...source, ...target].every((row) => first(row) === count(row));
        expect([...segment.scored]).to.eql(target.map(count));
        expect(scoredTargets(segment)).to.equal(target.map(count).reduce((sum, n) => sum + n));
        expect([...(await segment.lengths.data())]).to.eql(whole ? [...source, ...target].map(first) : []);
        disposeSegment(segment);
      }),
      { numRuns: 200 },
    );
  });

  it("names the first token outside the vocabulary, of the source before the target", async () => {
    const cases: [string, Segment, Record<string, unknown>][] = [
      [
        "source: token 7 of row 1, position 0 is outside the vocabulary of 7",
        segmentOf(2, 3, [6, 0, -1, 7, 9, 0], [9, 9, 9, 9, 9, 9]),
        { argument: "source", token: 7, row: 1, position: 0, vocabulary: 7 },
      ],
      [
        "target: token -2 of row 0, position 2 is outside the vocabulary of 7",
        segmentOf(2, 3, [0, 0, 0, 0, 0, 0], [6, -1, -2, 0, 0, 8]),
        { argument: "target", token: -2, row: 0, position: 2, vocabulary: 7 },
      ],
      [
        "target: token 2147483647 of row 1, position 2 is outside the vocabulary of 7",
        segmentOf(2, 3, [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2 ** 31 - 1]),
        { argument: "target", token: 2 ** 31 - 1, row: 1, position: 2, vocabulary: 7 },
      ],
    ];
    for (const [message, segment, details] of cases) {
      const error = await failure((async () => uploadSegment(segment, 7))());
      expect([error.code, error.message, error.details]).to.eql(["ERR_MEMFORMER_TOKEN_RANGE", message, details]);
    }
  });

  it("takes any number without a vocabulary, all below 0 being padding", async () => {
    const segment = uploadSegment(segmentOf(1, 3, [2 ** 31 - 1, 5, -7], [1, -(2 ** 31), -1]));
    expect([...(await segment.lengths.data())]).to.eql([2, 1]);
    expect([...segment.scored]).to.eql([1]);
    disposeSegment(segment);
  });
});
