/** Auxiliary tasks of a stream: what is read and asked, how often, and that nothing else changes. */
import { expect } from "chai";
import { PADDING, openTokenizer, TokenStream, tokensInMemory, type Segment, type TokenSource } from "../lib/index.ts";
import { Bench } from "./support/run-cli.ts";

const [MASK, RECALL] = [257, 258];

describe("data: auxiliary tasks", () => {
  let source: TokenSource;
  before(async () => {
    const ascending = (from: number, count: number): Int32Array =>
      Int32Array.from({ length: count }, (_, i) => (from + i) % 256);
    source = tokensInMemory([ascending(0, 163), ascending(50, 203), ascending(9, 35)], await openTokenizer("bytes"));
  });
  const options = { lanes: 2, segmentLength: 8, seed: 5 };
  const rows = (segment: Segment): { source: number[]; target: number[]; reset: number }[] =>
    Array.from({ length: segment.batch }, (_, b) => ({
      source: [...segment.source.subarray(8 * b, 8 * b + 8)],
      target: [...segment.target.subarray(8 * b, 8 * b + 8)],
      reset: segment.reset[b]!,
    }));

  it("are off by default, and leave every other segment as it is", async () => {
    const plain = new TokenStream(source, options),
      mixed = new TokenStream(source, { ...options, infilling: 0.3, recallPrevious: 0.2 });
    expect(plain.vocabulary).to.equal(257);
    expect(mixed.vocabulary).to.equal(259);
    expect(plain.position().stream).to.not.have.any.keys("infilling", "recallPrevious");
    const counts = { continuation: 0, infilling: 0, recall: 0 },
      before: number[][] = [];
    for (let i = 0; i < 400; i++) {
      const [usual, given] = [rows((await plain.next())!), rows((await mixed.next())!)];
      usual.forEach((row, b) => {
        const found = given[b]!;
        expect(found.reset).to.equal(row.reset);
        if (found.source.includes(MASK)) {
          counts.infilling += 1;
          expect(found.target, "the source as it was").to.deep.equal(row.source);
          const kept = found.source.filter((token) => token !== PADDING && token !== MASK);
          expect(kept.length).to.be.within(5, 6); // 0.3 of 8 are masked, rounded
          expect(row.source.filter((token) => kept.includes(token))).to.deep.equal(kept);
          const used = found.source.filter((token) => token !== PADDING).length; // padding is all at the end
          expect(found.source.slice(used).every((token) => token === PADDING)).to.equal(true);
        } else if (found.source.includes(RECALL)) {
          counts.recall += 1;
          expect(found.source).to.deep.equal([...row.source.slice(0, 7), RECALL]);
          expect(found.target, "the segment before the source").to.deep.equal(before[b]);
        } else {
          counts.continuation += 1;
          expect(found).to.deep.equal(row);
        }
        before[b] = row.source;
      });
    }
    expect(mixed.stats).to.deep.equal(plain.stats);
    expect(mixed.epoch).to.equal(plain.epoch);
    expect(counts.infilling / 800).to.be.within(0.2, 0.33);
    expect(counts.recall / 800).to.be.within(0.1, 0.23);
  });

  it("go on from a position as they did, and only in a stream of the same shares", async () => {
    const made = (): TokenStream => new TokenStream(source, { ...options, infilling: 0.3, recallPrevious: 0.2 });
    const stream = made();
    for (let i = 0; i < 37; i++) await stream.next();
    const position = JSON.parse(JSON.stringify(stream.position())) as ReturnType<TokenStream["position"]>,
      again = made();
    again.seek(position);
    for (let i = 0; i < 60; i++) expect(await again.next()).to.deep.equal(await stream.next());
    expect(() => {
      new TokenStream(source, { ...options, infilling: 0.3 }).seek(position);
    }).to.throw(/recallPrevious 0.2; here it is none/);
    expect(() => {
      made().seek(new TokenStream(source, options).position());
    }).to.throw(/infilling none; here it is 0.3/);
  });

  it("are the same for ranks that share a stream", async () => {
    const whole = new TokenStream(source, { ...options, infilling: 0.4 }),
      second = new TokenStream(source, { ...options, infilling: 0.4 });
    for (let i = 0; i < 50; i++) {
      const part = (await second.nextLanes(1, 1))!,
        [, row] = rows((await whole.next())!);
      expect(rows(part)).to.deep.equal([row]);
    }
  });

  for (const [what, shares, message] of [
    ["a share of 1", { infilling: 1 }, /infilling is a share of segments.*got 1/],
    ["a share below 0", { recallPrevious: -0.1 }, /recallPrevious is a share.*got -0.1/],
    [
      "shares that leave nothing to continue",
      { infilling: 0.6, recallPrevious: 0.4 },
      /leave no segment to be continued/,
    ],
  ] as const) {
    it(`refuse ${what}`, () => {
      expect(() => new TokenStream(source, { ...options, ...shares })).to.throw(message);
    });
  }
});

describe("data: auxiliary tasks of memformer train", function () {
  this.timeout(120_000);
  let bench: Bench;
  before(() => {
    bench = new Bench();
  });
  after(() => {
    bench.remove();
  });
  const train = [
    "train",
    "--data",
    "moby-dick",
    "--device",
    "cpu",
    "--preset",
    "tiny",
    "--lanes",
    "4",
    "--horizon",
    "2",
  ];

  it("train a model with two tokens more, which goes on, generates, and keeps its shares", async () => {
    const shares = ["--infilling", "0.3", "--recall-previous", "0.1"];
    const first = await bench.run(...train, ...shares, "--steps", "3", "--out", "run");
    expect(first.code, first.stderr).to.equal(0);
    const resumed = await bench.run("train", "--resume", "--out", "run", "--steps", "5", "--device", "cpu");
    expect(resumed.code, resumed.stderr).to.equal(0);
    const inspected = await bench.run("inspect", "run/model");
    expect(inspected.stdout).to.match(/vocabulary\D+259/);
    const generated = await bench.run(
      "generate",
      "run/model",
      "--prompt",
      "Call me",
      "--max-tokens",
      "40",
      "--device",
      "cpu",
    );
    expect(generated.code, generated.stderr).to.equal(0);
    const scored = await bench.run(
      "evaluate",
      "run/model",
      "--data",
      "moby-dick",
      "--segments",
      "2",
      "--device",
      "cpu",
    );
    expect(scored.code, scored.stderr).to.equal(0);
    const changed = await bench.run("train", "--resume", "--out", "run", "--steps", "6", "--infilling", "0.2");
    expect(changed.code).to.equal(1);
    expect(changed.stderr).to.match(/infilling.*0\.3.*0\.2|infilling.*0\.2.*0\.3/s);
  });

  it("are refused where the memory is written from what is predicted", async () => {
    const { code, stderr } = await bench.run(
      ...train,
      "--architecture",
      "decoder",
      "--infilling",
      "0.1",
      "--out",
      "other",
    );
    expect(code).to.equal(2);
    expect(stderr).to.match(/need architecture "encoder-decoder".*got "decoder"/);
  });
});
