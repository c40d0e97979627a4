/** What a generation hands out: whole characters, stop strings that never leak, tokens with their log-probabilities. */
import { expect } from "chai";
import fc from "fast-check";
import { Session, openTokenizer, type Memformer, type Piece, type Tokenizer } from "../lib/index.ts";
import { StopFinder } from "../lib/generate/stop-strings.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { idsOf, says, textOf } from "./support/scripted.ts";

let model: Memformer;

/** Where the stop string that ends first begins; of several that end there, the longest. */
function cutAt(text: string, stops: readonly string[]): number {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    if (found.length > 0) return end - Math.max(...found.map(({ length }) => length));
  }
  return text.length;
}

/** The least that has to wait: the longest ending that begins a stop string. */
function mustWait(text: string, stops: readonly string[]): number {
  for (let length = text.length; length > 0; length--)
    if (stops.some((stop) => stop.startsWith(text.slice(-length)))) return length;
  return 0;
}

describe("stop strings", () => {
  const letters = fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 5 });

  it("never leak, and hold back no more than may become one, however a text is split", () => {
    fc.assert(
      fc.property(
        fc.array(letters, { minLength: 1, maxLength: 4 }),
        fc.array(letters, { maxLength: 12 }),
        (stops, parts) => {
          const finder = new StopFinder(stops),
            whole = parts.join(""),
            end = cutAt(whole, stops);
          let seen = "",
            out = "";
          for (const part of parts) {
            const { text, stop } = finder.push(part);
            seen += part;
            out += text;
            if (stop !== undefined) {
              expect(out).to.equal(whole.slice(0, end));
              expect(whole.slice(end).startsWith(stop)).to.be.true;
              return;
            }
            expect(cutAt(seen, stops), "a stop string was missed").to.equal(seen.length);
            expect(out).to.equal(seen.slice(0, seen.length - mustWait(seen, stops)));
          }
          expect(out + finder.end()).to.equal(whole);
          expect(end).to.equal(whole.length);
        },
      ),
      { numRuns: 3000, seed: 7 },
    );
  });

  it("are found where one lies inside another, or begins anew in the middle", () => {
    const cut = (text: string, stops: string[]): [string, string | undefined] => {
      const finder = new StopFinder(stops),
        { text: out, stop } = finder.push(text);
      return [stop === undefined ? out + finder.end() : out, stop];
    };
    expect(cut("aab", ["ab"])).to.deep.equal(["a", "ab"]);
    expect(cut("xabxaby", ["ab", "xaby"])).to.deep.equal(["x", "ab"]);
    expect(cut("xabcd", ["xabce", "bcd"])).to.deep.equal(["xa", "bcd"]);
    expect(cut("ababac", ["abac"])).to.deep.equal(["ab", "abac"]);
    expect(cut("nothing", ["thing!"])).to.deep.equal(["nothing", undefined]);
  });
});

describe("a piece", function () {
  this.timeout(60_000);
  before(async () => {
    model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    await perturb(model, 0.2);
  });
  after(async () => model.dispose());

  it("holds whole characters alone, wherever turns and pieces end", async () => {
    const text = "né 🐋, 鲸\u0000\ufeffé🏴‍☠️!",
      bytes = new TextEncoder().encode(text);
    for (let cut = 0; cut <= bytes.length; cut++) {
      using session = await Session.open(model);
      const pieces = [...(await says(session, bytes.subarray(0, cut))), ...(await says(session, bytes.subarray(cut)))];
      expect(textOf(pieces), `cut at ${cut}`).to.equal(text);
      expect(idsOf(pieces)).to.deep.equal([...bytes]);
      for (const { text: part } of pieces) expect(part).to.not.match(/\ufffd|\p{Surrogate}/u);
    }
  });

  it("completes a character of the turn before also after a save, and forgets it once something is read", async () => {
    const [a, b, c, d] = new TextEncoder().encode("🐋");
    for (const segmentLength of [1, 2, 6]) {
      await using small = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32", segmentLength });
      using session = await Session.open(small);
      for (const byte of [a!, b!, c!]) expect(textOf(await says(session, [byte]))).to.equal("");
      using restored = await Session.restore(small, await session.save());
      using read = session.clone();
      expect(textOf(await says(restored, [d!]))).to.equal("🐋");
      expect(textOf(await says(session, [d!]))).to.equal("🐋");
      await read.read("x");
      expect(textOf(await says(read, "y"))).to.equal("y");
    }
  });

  it("goes on through bytes that are no character, and ends the document with what is left of one", async () => {
    using session = await Session.open(model);
    expect(textOf(await says(session, [0xff, 0xc3, 0x28, 0xf0, 0x9f, 0x41]))).to.equal("\ufffd\ufffd(\ufffdA");
    const [last] = (await says(session, [0xc3, 256], { maxTokens: 9 })).slice(-1);
    expect([last!.text, last!.finish]).to.deep.equal(["\ufffd", "end"]);
  });

  it("holds back what may become a stop string, and says why a generation ended", async () => {
    using session = await Session.open(model);
    const pieces = await says(session, "one\nUse\nUser: two", { stop: ["\nUser:", "###"] });
    expect(pieces.map(({ text }) => text)).to.deep.equal(["o", "n", "e", "\nUse", ""]);
    expect(pieces.map(({ finish }) => finish)).to.deep.equal([null, null, null, null, "stop"]);
    expect(pieces.at(-1)!.stop).to.equal("\nUser:");
    expect(idsOf(pieces)).to.deep.equal([...Buffer.from("one\nUse")]);
    expect(session.position).to.equal("one\nUse".length);
    const rest = await says(session, "\nUs", { stop: "\nUser:" });
    expect([textOf(rest), rest.at(-1)!.finish]).to.deep.equal(["\nUs", "length"]);
    let words = "";
    for await (const piece of session.generate({ maxTokens: 0 })) words += piece;
    expect(words).to.equal("");
  });

  it("leaves in the session what the caller saw: of a token cut by a stop string, its beginning", async () => {
    const words = ["foo\nUs", "er", ":", " and", "é\n"],
      plain = await openTokenizer("bytes");
    // Ids from 0 are bytes; 200 on are words.
    const tokenizer: Tokenizer = {
      ...plain,
      name: "words",
      decode: (tokens) => [...tokens].map((id) => words[id - 200] ?? String.fromCharCode(id)).join(""),
      decoder: () => ({
        push: (tokens) => [...tokens].map((id) => words[id - 200] ?? String.fromCharCode(id)).join(""),
        end: () => "",
      }),
    };
    using session = await Session.open(model, tokenizer),
      wanted = await Session.open(model, tokenizer);
    const pieces = await says(session, [203, 200, 201, 202, 203], { stop: "\nUser:", logprobs: 0 });
    expect(pieces.map(({ text }) => text)).to.deep.equal([" and", "foo", ""]);
    expect(idsOf(pieces)).to.deep.equal([203, 102, 111, 111]);
    expect(pieces.flatMap(({ tokens }) => tokens).map(({ offset }) => offset)).to.deep.equal([0, 4, 4, 4]);
    await wanted.read([203, 102, 111, 111]);
    expect(session.position).to.equal(4);
    expect([...(await session.logits())]).to.deep.equal([...(await wanted.logits())]);
    // A token whose text is held and then let go of is one token, with its own place and log-probability.
    using other = await Session.open(model, tokenizer);
    const free = await says(other, [200, 201, 203], { stop: "\nUser:", logprobs: 0 });
    expect(free.map(({ text, tokens }) => [text, tokens.map(({ id, offset }) => [id, offset])])).to.deep.equal([
      ["foo", []],
      [
        "\nUser and",
        [
          [200, 0],
          [201, 6],
          [203, 8],
        ],
      ],
      ["", []],
    ]);
    expect(new Set(free.flatMap(({ tokens }) => tokens.map(({ logprob }) => logprob))).size).to.equal(3);
  });

  it("has the model's own log-probabilities, of the chosen token and of the likeliest", async () => {
    using session = await Session.open(model),
      twin = await Session.open(model);
    await session.read("Once");
    await twin.read("Once");
    const options = {
      maxTokens: 8,
      seed: 3,
      temperature: 2,
      logitBias: { 65: 3 },
      repetitionPenalty: 1.5,
      logprobs: 3,
    };
    for await (const { tokens } of session.generatePieces(options)) {
      for (const { id, logprob, top } of tokens) {
        const logits = [...(await twin.logits())],
          largest = Math.max(...logits),
          total = largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
        expect(logprob).to.be.closeTo(logits[id]! - total, 1e-6);
        const order = logits.map((logit, i) => ({ id: i, logit })).sort((x, y) => y.logit - x.logit);
        expect(top!.map((token) => token.id)).to.deep.equal(order.slice(0, 3).map((token) => token.id));
        expect(top![0]!.logprob).to.be.closeTo(order[0]!.logit - total, 1e-6);
        await twin.read([id]);
      }
    }
    expect(twin.position).to.be.at.least(10);
    for await (const { tokens } of session.generatePieces({ maxTokens: 2 }))
      for (const token of tokens) expect(token).to.have.all.keys("id", "offset");
  });
});

describe("what a generation draws", function () {
  this.timeout(60_000);
  before(async () => {
    model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    await perturb(model, 0.2);
  });
  after(async () => model.dispose());

  async function ids(session: Session, options: Parameters<Session["generatePieces"]>[0]): Promise<number[]> {
    const pieces: Piece[] = [];
    for await (const piece of session.generatePieces(options)) pieces.push(piece);
    return idsOf(pieces);
  }

  it("depends on seed and position alone: in one turn or in many, after a save, in a branch", async () => {
    using session = await Session.open(model);
    await session.read("Call me");
    using parts = session.clone(),
      branch = session.clone();
    const bytes = await session.save();
    const whole = await ids(session, { maxTokens: 24, seed: 5, temperature: 1.5 });
    const made: number[] = [];
    for (let i = 0; i < 4; i++) made.push(...(await ids(parts, { maxTokens: 6, seed: 5, temperature: 1.5 })));
    expect(made).to.deep.equal(whole);
    using restored = await Session.restore(model, bytes);
    expect(await ids(restored, { maxTokens: 24, seed: 5, temperature: 1.5 })).to.deep.equal(whole);
    expect(restored.sampler).to.deep.include({ seed: 5, temperature: 1.5 });
    using again = await Session.restore(model, await restored.save());
    expect(again.sampler).to.deep.equal(restored.sampler);
    expect(again.lastSeed).to.equal(5);
    expect(await ids(branch, { maxTokens: 24, seed: 6, temperature: 1.5 })).to.not.deep.equal(whole);
  });

  it("heeds bias, min-p, the penalty and a function over the logits", async () => {
    using session = await Session.open(model);
    await session.read("Call me");
    const drawn = async (options: Parameters<Session["generatePieces"]>[0]): Promise<number[]> => {
      using copy = session.clone();
      return await ids(copy, { maxTokens: 30, seed: 2, temperature: 3, ...options });
    };
    expect(new Set(await drawn({ logitBias: { 65: 1000 } }))).to.deep.equal(new Set([65]));
    const free = await drawn({});
    const banned = Object.fromEntries(free.map((id) => [id, -Infinity]));
    expect(
      (await drawn({ logitBias: new Map(Object.entries(banned).map(([id, v]) => [+id, v])) })).some((id) =>
        free.includes(id),
      ),
    ).to.be.false;
    // At a share of 1 none but the likeliest is left.
    expect(await drawn({ minP: 1 })).to.deep.equal(await drawn({ topK: 1 }));
    expect(await drawn({ minP: 0.9 })).to.not.deep.equal(free);
    const greedy = await drawn({ temperature: 0 });
    const penalized = await drawn({ temperature: 0, repetitionPenalty: 1e6, repetitionWindow: 12 });
    expect(new Set(greedy.slice(0, 6)).size).to.be.below(6);
    for (let i = 1; i < penalized.length; i++)
      expect(penalized.slice(Math.max(0, i - 5), i)).to.not.include(penalized[i]);
    expect(await drawn({ temperature: 0, repetitionPenalty: 1e6, repetitionWindow: 0 })).to.deep.equal(greedy);
    const places: number[] = [];
    const odd = await drawn({
      logitsProcessor: async (logits, { position, context }) => {
        places.push(position);
        expect(context.length).to.equal(Math.min(position, 6 + (position % 6)));
        return Array.from(logits, (logit, id) => (id % 2 === 1 ? logit : -Infinity));
      },
    });
    expect(odd.every((id) => id % 2 === 1)).to.be.true;
    expect(places).to.deep.equal(odd.map((_, i) => 7 + i));
  });

  it("refuses what no token can be drawn by, and takes nothing in", async () => {
    using session = await Session.open(model);
    await session.read("Call me");
    const before = await session.save();
    const wrong: [Parameters<Session["generatePieces"]>[0], string, RegExp][] = [
      [{ logitBias: { 257: 1 } }, "CONFIG", /logitBias: token 257 is outside the vocabulary of 257/],
      [{ logitBias: { 1: NaN } }, "CONFIG", /logitBias: expected numbers by token id/],
      [{ logitBias: { x: 1 } as never }, "CONFIG", /logitBias/],
      [{ logitBias: [1] as never }, "CONFIG", /logitBias/],
      [{ logprobs: 258 }, "CONFIG", /logprobs: 258 is more than the vocabulary/],
      [{ logprobs: -1 }, "CONFIG", /logprobs/],
      [{ minP: 1.1 }, "CONFIG", /minP/],
      [{ repetitionPenalty: 0 }, "CONFIG", /repetitionPenalty/],
      [{ repetitionWindow: 0.5 }, "CONFIG", /repetitionWindow/],
      [{ stop: "" }, "CONFIG", /stop/],
      [{ stop: ["a", "\ud83d"] }, "CONFIG", /stop/],
      [{ onAbort: "keep" as never }, "CONFIG", /onAbort/],
      [{ logitsProcessor: (logits) => logits.subarray(1) }, "SHAPE", /must return 257 logits or nothing, got 256/],
      [{ logitsProcessor: (logits) => void logits.fill(NaN) }, "NOT_FINITE", /no token can be drawn/],
      [{ logitsProcessor: (logits) => void logits.fill(-Infinity) }, "NOT_FINITE", /no token can be drawn/],
      [{ stops: "a" } as never, "CONFIG", /did you mean "stop"\?/],
    ];
    for (const [options, code, message] of wrong) {
      const error = await failure(session.generatePieces(options).next());
      expect(error.code, JSON.stringify(options)).to.equal(`ERR_MEMFORMER_${code}`);
      expect(error.message).to.match(message);
    }
    class Own extends Error {}
    const thrown = session.generatePieces({
      logitsProcessor: () => {
        throw new Own();
      },
    });
    expect(await failure(thrown.next())).to.be.instanceOf(Own);
    using same = await Session.restore(model, before);
    expect([...(await session.logits())]).to.deep.equal([...(await same.logits())]);
    expect(session.position).to.equal(7);
  });
});
