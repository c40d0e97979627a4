import { expect } from "chai";
import { RecallStream, type RecallOptions, type RecallPosition } from "../lib/data/index.ts";
import { PADDING, type Segment } from "../lib/data/segment.ts";
import { thrown } from "./support/failure.ts";

interface Step {
  source: number[];
  target: number[];
  reset: number;
}

async function take(stream: RecallStream, count: number): Promise<Segment[]> {
  const segments: Segment[] = [];
  for (let i = 0; i < count; i++) segments.push(await stream.next());
  return segments;
}

/** The documents of one lane, complete ones only. */
function documents(segments: Segment[], lane: number): Step[][] {
  const found: Step[][] = [];
  for (const { source, target, reset, length } of segments) {
    const row = (values: Int32Array): number[] => [...values.subarray(lane * length, (lane + 1) * length)];
    if (reset[lane] === 1) found.push([]);
    found.at(-1)!.push({ source: row(source), target: row(target), reset: reset[lane]! });
  }
  return found.slice(0, -1);
}

describe("the recall task", () => {
  const options: RecallOptions = {
    lanes: 3,
    segmentLength: 6,
    keys: 10,
    symbols: 2,
    fillers: 5,
    minLag: 1,
    maxLag: 4,
    seed: 9,
  };

  it("shows the key in a document's first segment and asks for it in its last, and scores nothing else", async () => {
    const stream = new RecallStream(options);
    const segments = await take(stream, 200);
    for (let lane = 0; lane < 3; lane++) {
      documents(segments, lane).forEach((steps, d) => {
        const keysShown = steps[0]!.source.filter((token) => token < 10);
        expect(keysShown).to.have.length(2);
        expect(steps.length - 1)
          .to.equal(stream.lag(lane, d))
          .and.be.within(1, 4);
        expect(steps.at(-1)!.target).to.eql([...keysShown, PADDING, PADDING, PADDING, PADDING]);
        const early = steps.slice(0, -1).flatMap(({ target }) => target);
        expect(early.every((token) => token === PADDING)).to.be.true;
        expect(steps.slice(1).every(({ reset }) => reset === 0)).to.be.true;
      });
    }
  });

  it("holds no trace of the key after the segment that shows it", async () => {
    const stream = new RecallStream(options);
    const segments = await take(stream, 400);
    const byKey = new Map<number, number[]>();
    for (let lane = 0; lane < 3; lane++) {
      for (const steps of documents(segments, lane)) {
        for (const { source } of steps.slice(1)) expect(Math.min(...source)).to.be.at.least(10);
        expect(steps.at(-1)!.source[0]).to.equal(stream.query);
        const key = steps.at(-1)!.target[0]!;
        byKey.set(key, [...(byKey.get(key) ?? []), steps.at(-1)!.source[1]!]);
      }
    }
    // The fillers of the asking segment do not tell the key: every key saw most of them.
    for (const fillers of byKey.values()) expect(new Set(fillers).size).to.be.at.least(3);
    expect(byKey.size).to.equal(10);
  });

  it("draws new fillers in every segment", async () => {
    const segments = await take(new RecallStream({ ...options, minLag: 4 }), 5);
    const fillers = segments.map(({ source }) => source.subarray(1, 6).join());
    expect(new Set(fillers).size).to.equal(5);
  });

  it("draws every key and every lag about equally often", async () => {
    const segments = await take(new RecallStream({ lanes: 8, segmentLength: 4, keys: 4, minLag: 2, maxLag: 5 }), 900);
    const [lags, keys] = [new Map<number, number>(), new Map<number, number>()];
    let count = 0;
    for (let lane = 0; lane < 8; lane++) {
      for (const steps of documents(segments, lane)) {
        lags.set(steps.length - 1, (lags.get(steps.length - 1) ?? 0) + 1);
        keys.set(steps.at(-1)!.target[0]!, (keys.get(steps.at(-1)!.target[0]!) ?? 0) + 1);
        count++;
      }
    }
    expect([...lags.keys()].sort()).to.eql([2, 3, 4, 5]);
    for (const seen of [...lags.values(), ...keys.values()]) expect(seen / count).to.be.within(0.2, 0.3);
  });

  it("is the same for the same seed, and resumes at every position", async () => {
    const stream = new RecallStream(options);
    const positions: string[] = [];
    const segments: Segment[] = [];
    for (let i = 0; i < 30; i++) {
      positions.push(JSON.stringify(stream.position()));
      segments.push(await stream.next());
    }
    const again = new RecallStream(options);
    for (const i of [29, 0, 11, 4]) {
      again.seek(JSON.parse(positions[i]!) as RecallPosition);
      expect(await take(again, 30 - i)).to.eql(segments.slice(i));
    }
    expect(await take(new RecallStream({ ...options, seed: 10 }), 30)).not.to.eql(segments);
  });

  it("keeps every id below its vocabulary", async () => {
    const stream = new RecallStream(options);
    expect([stream.vocabulary, stream.query, stream.bos]).to.eql([17, 15, 16]);
    for (const { source, target } of await take(stream, 50)) {
      expect(Math.min(...source)).to.be.at.least(0);
      expect(Math.max(...source, ...target)).to.be.below(16);
    }
  });

  it("refuses options out of range and positions of another stream", () => {
    const cases: [Partial<RecallOptions>, string][] = [
      [{ lanes: 0 }, "lanes must be a whole number of at least 1"],
      [{ keys: 1 }, "keys must be a whole number of at least 2"],
      [{ minLag: 0 }, "minLag must be a whole number of at least 1, got 0"],
      [{ minLag: 5, maxLag: 4 }, "maxLag must be a whole number of at least 5, got 4"],
      [{ symbols: 6 }, "symbols must be less than the segment of 6, got 6"],
    ];
    for (const [given, message] of cases) {
      const error = thrown(() => new RecallStream({ ...options, ...given }));
      expect(error.code, message).to.equal("ERR_MEMFORMER_CONFIG");
      expect(error.message).to.include(message);
    }
    const stream = new RecallStream(options);
    const lane = { document: 0, step: 0 };
    for (const position of [null, {}, { lanes: [lane] }, { lanes: [lane, lane, { document: 0, step: 9 }] }]) {
      const error = thrown(() => stream.seek(position as RecallPosition));
      expect(error.code).to.equal("ERR_MEMFORMER_DATA");
      expect(error.message).to.match(/has 3 lanes|has no step 9 in a document 0/);
    }
  });
});
