import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { MemformerError } from "../lib/errors.ts";
import {
  evaluationPass,
  openTokenFile,
  openTokenizer,
  Random,
  tokensInMemory,
  TokenStream,
  writeTokenFile,
  type StreamPosition,
  type Tokenizer,
  type TokenSource,
  type TokenStreamOptions,
} from "../lib/data/index.ts";
import { PADDING, type Segment } from "../lib/data/segment.ts";
import { failure } from "./support/failure.ts";

const BOS = 256;

function rowsOf(values: Int32Array, { batch, length }: Segment): number[][] {
  return Array.from({ length: batch }, (_, b) => [...values.subarray(b * length, (b + 1) * length)]);
}

async function take(stream: TokenStream, count: number): Promise<Segment[]> {
  const segments: Segment[] = [];
  for (let i = 0; i < count; i++) {
    const segment = await stream.next();
    if (segment) segments.push(segment);
  }
  return segments;
}

/** What each lane walked through: its documents in order, pieced together from targets between resets. */
function walks(segments: Segment[]): number[][][] {
  const lanes: number[][][] = Array.from({ length: segments[0]!.batch }, () => []);
  for (const segment of segments) {
    rowsOf(segment.target, segment).forEach((row, b) => {
      if (segment.reset[b] === 1) lanes[b]!.push([]);
      lanes[b]!.at(-1)!.push(...row.filter((token) => token !== PADDING));
    });
  }
  return lanes.map((documents) => documents.filter((document) => document.length > 0));
}

describe("a token stream", () => {
  let bytes: Tokenizer;
  before(async () => {
    bytes = await openTokenizer("bytes");
  });

  /** Documents of the given lengths; each token tells its document, and its place modulo 16. */
  const sourceOf = (lengths: number[]): TokenSource =>
    tokensInMemory(
      lengths.map((length, d) => ({
        tokens: Array.from({ length }, (_, i) => (d % 16) * 16 + (i % 16)),
        bytes: length,
      })),
      bytes,
    );
  const documentsOf = async (source: TokenSource, limit = Infinity): Promise<string[]> => {
    const pieces: string[] = [];
    for (let d = 0; d < source.documents; d++) {
      const tokens = [...(await source.read(d, 0, source.documentLength(d)))];
      for (let from = 0; from < tokens.length; from += limit) pieces.push(tokens.slice(from, from + limit).join());
    }
    return pieces.sort();
  };

  const shape = fc.record({
    lengths: fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 12 }),
    lanes: fc.integer({ min: 1, max: 5 }),
    segmentLength: fc.integer({ min: 1, max: 9 }),
    seed: fc.nat(),
    shuffle: fc.boolean(),
    documentLimit: fc.option(fc.integer({ min: 1, max: 30 }), { nil: undefined }),
  });
  type Given = { documentLimit: number | undefined; lanes: number; segmentLength: number; seed: number };
  const optionsOf = ({ documentLimit, ...rest }: Given): TokenStreamOptions => ({
    ...rest,
    ...(documentLimit !== undefined && { documentLimit }),
  });

  it("gives every token exactly once in a pass, each document whole and in one lane", async () => {
    await fc.assert(
      fc.asyncProperty(shape, async ({ lengths, ...given }) => {
        const source = sourceOf(lengths);
        const stream = new TokenStream(source, { ...optionsOf(given), repeat: false });
        const segments = await take(stream, 1000);
        const walked = walks(segments)
          .flat()
          .map((document) => document.join());
        expect(walked.sort()).to.eql(await documentsOf(source, given.documentLimit));
        expect(await stream.next()).to.equal(undefined);
        expect(stream.stats.tokens).to.equal(source.tokens);
        expect(stream.stats.segments).to.equal(segments.length);
        expect([stream.epoch, stream.fraction]).to.eql([1, 0]);
      }),
      { numRuns: 100 },
    );
  });

  it("shows the segment before as source, BOS alone at a document's start, and pads only at ends", async () => {
    await fc.assert(
      fc.asyncProperty(shape, async ({ lengths, ...given }) => {
        const stream = new TokenStream(sourceOf(lengths), { ...optionsOf(given), repeat: false });
        let before: number[][] | undefined;
        for (const segment of await take(stream, 1000)) {
          const [source, target] = [rowsOf(segment.source, segment), rowsOf(segment.target, segment)];
          for (let b = 0; b < segment.batch; b++) {
            const start = [BOS, ...new Array<number>(segment.length - 1).fill(PADDING)];
            expect(source[b]).to.eql(segment.reset[b] === 1 ? start : before![b]);
            const end = target[b]!.indexOf(PADDING);
            if (end >= 0) expect(target[b]!.slice(end).every((token) => token === PADDING)).to.be.true;
          }
          before = target;
        }
      }),
      { numRuns: 100 },
    );
  });

  it("continues from every position exactly as it went on the first time", async () => {
    await fc.assert(
      fc.asyncProperty(shape, fc.boolean(), async ({ lengths, ...given }, repeat) => {
        const source = sourceOf(lengths);
        const options = { ...optionsOf(given), repeat, documentLimit: given.documentLimit ?? 5 };
        if (repeat && Math.ceil(source.tokens / 5) < given.lanes) return;
        const stream = new TokenStream(source, options);
        const positions: string[] = [];
        const segments: (Segment | undefined)[] = [];
        for (let i = 0; i < 25; i++) {
          positions.push(JSON.stringify(stream.position()));
          segments.push(await stream.next());
        }
        const again = new TokenStream(source, options);
        for (const i of [24, 0, 13, 7, 1]) {
          again.seek(JSON.parse(positions[i]!) as StreamPosition);
          for (let j = i; j < 25; j++) {
            expect(JSON.stringify(again.position())).to.equal(positions[j]);
            expect(await again.next()).to.eql(segments[j]);
          }
          expect(again.stats).to.eql(stream.stats);
        }
      }),
      { numRuns: 40 },
    );
  });

  it("is the same for the same seed, another for another, and shuffles anew in each epoch", async () => {
    const source = sourceOf(Array.from({ length: 16 }, () => 3));
    const order = async (seed: number): Promise<string[]> => {
      const stream = new TokenStream(source, { lanes: 1, segmentLength: 4, seed });
      return walks(await take(stream, 32))[0]!.map((document) => document.join());
    };
    const [once, twice, other] = [await order(1), await order(1), await order(2)];
    expect(once).to.eql(twice);
    expect(once).not.to.eql(other);
    expect(once.slice(0, 16)).not.to.eql(once.slice(16));
    expect(once.slice(0, 16).sort()).to.eql(once.slice(16).sort());
  });

  it("keeps the documents' own order without shuffling", async () => {
    const segments = await take(
      new TokenStream(sourceOf([2, 3, 1]), { lanes: 1, segmentLength: 4, shuffle: false }),
      4,
    );
    expect(walks(segments)[0]!.map((document) => document[0]! >> 4)).to.eql([0, 1, 2, 0]);
  });

  it("gives an idle lane a row of BOS and padding, reset, until the others are done", async () => {
    const segments = await take(evaluationPass(sourceOf([1, 6]), { lanes: 2, segmentLength: 3 }), 9);
    expect(segments).to.have.length(2);
    expect(rowsOf(segments[1]!.source, segments[1]!)[0]).to.eql([BOS, PADDING, PADDING]);
    expect(rowsOf(segments[1]!.target, segments[1]!)[0]).to.eql([PADDING, PADDING, PADDING]);
    expect([...segments[1]!.reset]).to.eql([1, 0]);
  });

  it("gives segments in the order of the calls when several are asked for at once", async () => {
    const source = sourceOf([20, 30, 25]);
    const make = (): TokenStream => new TokenStream(source, { lanes: 2, segmentLength: 4 });
    const stream = make();
    expect(await Promise.all(Array.from({ length: 12 }, async () => stream.next()))).to.eql(await take(make(), 12));
  });

  it("cuts the documents of a repeating stream so that no two lanes walk through the same text", async () => {
    const source = sourceOf([1000]);
    const stream = new TokenStream(source, { lanes: 4, segmentLength: 8 });
    expect(stream.documentLimit).to.equal(248);
    const positions = (await take(stream, 1), stream.position().lanes.map((lane) => lane?.offset));
    expect(new Set(positions).size).to.equal(4);
    expect(new TokenStream(sourceOf([5, 5, 5, 5]), { lanes: 4, segmentLength: 8 }).documentLimit).to.equal(Infinity);
    expect(evaluationPass(source, { lanes: 4, segmentLength: 8 }).documentLimit).to.equal(Infinity);
  });

  it("tells how far it is, and how much is padding", async () => {
    const stream = new TokenStream(sourceOf([6, 6]), { lanes: 1, segmentLength: 4 });
    expect(stream.stats).to.eql({ segments: 0, tokens: 0, padding: 0 });
    await take(stream, 2);
    expect([stream.epoch, stream.fraction]).to.eql([0, 0.5]);
    expect(stream.stats).to.eql({ segments: 2, tokens: 6, padding: 0.25 });
    await take(stream, 3);
    expect([stream.epoch, stream.fraction]).to.eql([1, 4 / 12]);
  });

  it("takes the longest documents first where asked, so that lanes end together", async () => {
    const lengths = [3, 9, 1, 12, 6, 9],
      source = sourceOf(lengths);
    const order = async (lanes: number): Promise<number[]> =>
      walks(await take(evaluationPass(source, { lanes, segmentLength: 4, longestFirst: true }), 20))
        .flat()
        .map((document) => document[0]! >> 4);
    expect(await order(1)).to.eql([3, 1, 5, 4, 0, 2]);
    expect((await order(3)).sort()).to.eql([0, 1, 2, 3, 4, 5]);
    const own = evaluationPass(source, { lanes: 1, segmentLength: 4 }),
      longest = evaluationPass(source, { lanes: 1, segmentLength: 4, longestFirst: true });
    expect(() => {
      own.seek(longest.position());
    })
      .to.throw(MemformerError, "longestFirst")
      .with.property("code", "ERR_MEMFORMER_DATA");
    const cut = evaluationPass(source, { lanes: 1, segmentLength: 4, documentLimit: 8, longestFirst: true });
    expect(walks(await take(cut, 20))[0]!.map((piece) => piece.length)).to.eql([8, 8, 8, 6, 4, 3, 1, 1, 1].slice(0, 9));
    expect(() => new TokenStream(source, { lanes: 1, segmentLength: 4, longestFirst: true }))
      .to.throw(MemformerError, "shuffle")
      .with.property("code", "ERR_MEMFORMER_CONFIG");
  });

  it("can be walked by for await", async () => {
    let count = 0;
    for await (const segment of evaluationPass(sourceOf([5, 5]), { lanes: 1, segmentLength: 4 }))
      count += segment.batch;
    expect(count).to.equal(4);
  });

  it("reads the text of each row in one go", async () => {
    const source = sourceOf([23, 5, 40]);
    let reads = 0;
    const counting: TokenSource = {
      ...source,
      read: async (...given) => {
        reads++;
        return source.read(...given);
      },
    };
    await take(new TokenStream(counting, { lanes: 3, segmentLength: 4 }), 20);
    expect(reads).to.equal(60);
  });

  it("reads the same from a file larger than its cache as from memory", async () => {
    const folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
    try {
      const random = new Random(3);
      const documents = Array.from({ length: 9 }, () => ({
        tokens: Array.from({ length: 1000 + random.below(60_000) }, () => random.below(256)),
        bytes: 1,
      }));
      const path = join(folder, "x.tokens");
      await writeTokenFile(path, documents, bytes);
      await using file = await openTokenFile(path, { cacheBytes: 1 });
      const options = { lanes: 5, segmentLength: 500, seed: 4 };
      const onDisk = new TokenStream(file, options);
      const inMemory = new TokenStream(tokensInMemory(documents, bytes), options);
      const same = (x: Int32Array, y: Int32Array): boolean =>
        Buffer.compare(Buffer.from(x.buffer), Buffer.from(y.buffer)) === 0;
      for (let i = 0; i < 150; i++) {
        const [a, b] = [await onDisk.next(), await inMemory.next()];
        expect(same(a!.target, b!.target) && same(a!.source, b!.source), `segment ${i}`).to.be.true;
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("with ends has BOS to predict behind each document whose last segment has room, and is else the same", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 2, max: 6 }),
        fc.option(fc.integer({ min: 1, max: 9 }), { nil: undefined }),
        async (lengths, lanes, segmentLength, documentLimit) => {
          const source = sourceOf(lengths),
            given = { lanes, segmentLength, repeat: false, ...(documentLimit !== undefined && { documentLimit }) };
          const [without, stream] = [new TokenStream(source, given), new TokenStream(source, { ...given, ends: true })];
          let ends = 0;
          for (let plain = await without.next(); plain !== undefined; plain = await without.next()) {
            const found = (await stream.next())!;
            const added = [...found.target.keys()].filter((i) => found.target[i] !== plain.target[i]);
            for (const i of added) {
              expect([plain.target[i], found.target[i]]).to.eql([PADDING, stream.bos]);
              expect(i % segmentLength === 0 || plain.target[i - 1] !== PADDING, "right behind the text").to.equal(
                i % segmentLength !== 0,
              );
              expect(
                plain.target
                  .subarray(i, Math.ceil((i + 1) / segmentLength) * segmentLength)
                  .every((token) => token === PADDING),
              ).to.be.true;
            }
            ends += added.length;
            expect([found.source, found.reset]).to.eql([plain.source, plain.reset]);
          }
          expect(await stream.next()).to.equal(undefined);
          const room = lengths.filter(
            (length) =>
              (documentLimit === undefined ? length : ((length - 1) % documentLimit) + 1) % segmentLength !== 0,
          );
          expect(ends).to.equal(room.length);
          expect(stream.stats.tokens).to.equal(without.stats.tokens + ends);
          expect([stream.epoch, stream.fraction]).to.eql([1, 0]);
        },
      ),
    );
  });

  it("goes on from a position of before there were ends, but not with them", async () => {
    const source = sourceOf([5, 6]),
      given = { lanes: 1, segmentLength: 4 };
    const before = new TokenStream(source, given),
      ending = new TokenStream(source, { ...given, ends: true });
    await before.next();
    await ending.next();
    expect(before.position().stream).to.not.have.property("ends");
    new TokenStream(source, { ...given, ends: false }).seek(before.position());
    new TokenStream(source, { ...given, ends: true }).seek(ending.position());
    for (const [ends, position] of [
      [true, before.position()],
      [false, ending.position()],
    ] as const) {
      const error = await failure(() => {
        new TokenStream(source, { ...given, ends }).seek(position);
      });
      expect(error.code).to.equal("ERR_MEMFORMER_DATA");
      expect(error.message).to.match(/ends (true|none)/);
    }
  });

  it("refuses options out of range, naming them", async () => {
    const source = sourceOf([10, 10]);
    const cases: [Partial<Record<keyof TokenStreamOptions, unknown>>, string][] = [
      [{ lanes: 0 }, "lanes must be a whole number of at least 1, got 0"],
      [{ lanes: "2" }, 'lanes must be a whole number of at least 1, got "2"'],
      [{ segmentLength: 1.5 }, "segmentLength must be a whole number of at least 1, got 1.5"],
      [{ segmentLength: undefined }, "segmentLength must be a whole number of at least 1, got undefined"],
      [{ seed: -1 }, "seed must be a whole number of at least 0, got -1"],
      [{ ends: "yes" }, 'ends must be true or false, got "yes"'],
      [{ bos: NaN }, "bos must be a whole number of at least 0, got NaN"],
      [{ documentLimit: 0 }, "documentLimit must be a whole number of at least 1, got 0"],
      [{ lanes: 50 }, "20 tokens are too few for 50 lanes of segments of 4: they make 6 pieces"],
    ];
    for (const [options, message] of cases) {
      const given = { lanes: 2, segmentLength: 4, ...options } as TokenStreamOptions;
      const error = await failure(() => new TokenStream(source, given));
      expect(error.code, message).to.equal("ERR_MEMFORMER_CONFIG");
      expect(error.message).to.include(message);
    }
    const empty = { ...source, documentLength: (d: number) => d * 10 };
    const error = await failure(() => new TokenStream(empty, { lanes: 2, segmentLength: 4 }));
    expect(error.code).to.equal("ERR_MEMFORMER_DATA");
    expect(error.message).to.include("Document 0 is empty");
  });

  it("refuses a position in another text of the same size, or of another tokenizer; one that does not tell is taken", async () => {
    const [a, b] = await Promise.all(
      ["abcdefgh", "abcdefgx"].map(async (text) => {
        const bytes = await openTokenizer("bytes");
        return tokensInMemory([bytes.encode(text)], bytes);
      }),
    );
    const options = { lanes: 1, segmentLength: 4 },
      stream = new TokenStream(a!, options),
      other = new TokenStream(b!, options);
    await stream.next();
    const position = stream.position();
    const error = await failure(() => other.seek(position));
    expect(error.code).to.equal("ERR_MEMFORMER_DATA");
    expect(error.message).to.match(
      /is of a stream of another text or tokenizer \(bytes \w{64}\); here it is bytes \w{64}/,
    );
    const { text, ...early } = position.stream;
    other.seek({ ...position, stream: early });
    expect(text).to.be.a("string");
    const named = { ...a!, tokenizer: { ...a!.tokenizer, name: "other" } };
    expect((await failure(() => new TokenStream(named, options).seek(position))).message).to.include(
      "another text or tokenizer",
    );
  });

  it("refuses a position that is none, or is of another stream, and stays where it is", async () => {
    const stream = new TokenStream(sourceOf([10, 10]), { lanes: 2, segmentLength: 4, seed: 5 });
    await stream.next();
    const position = stream.position();
    const cases: [unknown, string][] = [
      [null, "This is not a position of a token stream"],
      [{}, "This is not a position of a token stream: stream"],
      [{ ...position, epoch: -1 }, "This is not a position of a token stream: epoch"],
      [{ ...position, next: 3 }, "names document 3 of 2"],
      [{ ...position, lanes: [null] }, "has 1 lanes instead of 2"],
      [{ ...position, lanes: [null, { document: 2, offset: 0 }] }, "stands outside document 2"],
      [{ ...position, lanes: [null, { document: 1, offset: 10 }] }, "stands outside document 1"],
      [{ ...position, stream: { ...position.stream, seed: 6 } }, "of a stream with seed 6; here it is 5"],
      [
        { ...position, stream: { ...position.stream, segmentLength: 8 } },
        "of a stream with segmentLength 8; here it is 4",
      ],
      [{ ...position, stream: { ...position.stream, tokens: 21 } }, "of a stream with tokens 21; here it is 20"],
      [{ ...position, stream: { ...position.stream, documentLimit: 5 } }, "documentLimit 5; here it is none"],
    ];
    for (const [given, message] of cases) {
      const error = await failure(() => stream.seek(given as StreamPosition));
      expect(error.code, message).to.equal("ERR_MEMFORMER_DATA");
      expect(error.message).to.include(message);
    }
    expect(stream.position()).to.eql(position);
  });
});

describe("random numbers", () => {
  it("follow from their seeds alone, and differ for every seed and every further one", () => {
    const first = (...seeds: number[]): number[] => {
      const random = new Random(...seeds);
      return Array.from({ length: 4 }, () => random.next());
    };
    expect(first(1, 2)).to.eql(first(1, 2));
    const seeds = [[], [0], [1], [0, 0], [0, 1], [1, 0], [2 ** 32], [2 ** 52], [0, 2 ** 32]];
    expect(new Set(seeds.map((some) => first(...some).join())).size).to.equal(seeds.length);
  });

  it("are spread evenly", () => {
    const random = new Random(7);
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 100_000; i++) counts[random.below(10)]!++;
    for (const count of counts) expect(count).to.be.within(9_600, 10_400); // four standard deviations
  });

  it("permute every place", () => {
    fc.assert(
      fc.property(fc.nat(200), fc.nat(), (count, seed) => {
        const sorted = [...new Random(seed).permutation(count)].sort((a, b) => a - b);
        expect(sorted).to.eql(Array.from({ length: count }, (_, i) => i));
      }),
    );
  });
});
