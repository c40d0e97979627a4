/**
 * Decoding token by token against `logits`, which computes everything anew for each token, over three segments and
 * their borders; and rows of a batch against each row alone.
 */
import { expect } from "chai";
import { applyOperator, PADDING, Tensor, tidy, type CreateOptions, type State } from "../lib/index.ts";
import {
  apart,
  architectures,
  cached,
  draw,
  open,
  settings,
  uncached,
  type Row,
  expectAsUncached,
  expectBordersTogether,
  expectRuns,
} from "./support/decoding.ts";
import { bits, numbers, perturb, randomWindow, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";

describe("decoding token by token", function () {
  this.timeout(200_000);

  for (const setting of settings)
    it(`gives what computing everything anew gives, over three segments: ${JSON.stringify(setting)}`, () =>
      expectAsUncached(setting));

  it("computes in bfloat16 as the uncached model does, within its rounding", async () => {
    for (const architecture of architectures) {
      await using model = await tinyModel({ architecture, precision: "bfloat16" });
      await using exact = await tinyModel({ architecture, precision: "float32" });
      for (const one of [model, exact]) await perturb(one, 0.2);
      const tokens = draw(model, 3, 7);
      const wanted = await uncached(model, tokens),
        found = await cached(model, tokens);
      // Where bfloat16 rounds further than that, by as much as the uncached model does, and a half.
      const rounding = apart(wanted.logits, (await uncached(exact, tokens)).logits);
      expect(apart(found.logits, wanted.logits), architecture).to.be.at.most(Math.max(0.03, 1.5 * rounding));
    }
  });

  it("gives the same to the bit where tokens are fed at once", async () => {
    for (const architecture of architectures)
      for (const position of ["rotary", "relative", "t5"] as const) {
        await using model = await tinyModel({ architecture, position, precision: "float32", segmentLength: 11 });
        await perturb(model, 0.2);
        const tokens = draw(model, 2, 9),
          one = await cached(model, tokens);
        for (const chunk of [2, 3, 10]) {
          const many = await cached(model, tokens, chunk);
          expect(many.states, `${architecture}, ${position}, ${chunk}`).to.deep.equal(one.states);
          const last = (all: number[][]): number[] => all.at(-1)!;
          expect(last(many.logits)).to.deep.equal(last(one.logits));
        }
      }
  });

  it("takes tokens that nobody has looked at yet", async () => {
    await using model = await tinyModel();
    const row: Row = { previous: undefined, state: model.initialState(1), tokens: [] };
    using decoder = model.decoder(2);
    const logits: number[][] = [];
    for (const given of [[3, 4], Tensor.from(BigInt64Array.of(3n, 4n), [2])]) {
      for (const slot of [0, 1]) decoder.begin(open(model, row), row.state, [slot]).dispose();
      logits.push(...(await numbers([decoder.step(given, [0, 1])])));
    }
    expect(logits[1]).to.deep.equal(logits[0]);
    for (const slot of [0, 1]) decoder.begin(open(model, row), row.state, [slot]).dispose();
    for (const [wrong, message] of [
      [Tensor.from(BigInt64Array.of(3n), [1]), /a step of 2 slots takes as many tokens, got \[1\]/],
      [Tensor.from(new Float32Array(2), [2]), /a step's tokens must be int64, got Float/],
    ] as const) {
      expect((await failure(decoder.step(wrong, [0, 1]).read())).message).to.match(message);
      for (const slot of [0, 1]) decoder.begin(open(model, row), row.state, [slot]).dispose();
    }
  });

  for (const architecture of architectures)
    it(`draws a run as one token at a time, to the bit, each row in its own place: ${architecture}`, () =>
      expectRuns({ architecture, precision: "float32" }));

  it("of a run in which a row can draw nothing says so, and the others go on", async () => {
    await using model = await tinyModel();
    const { bos, vocabulary } = model.config,
      row: Row = { previous: undefined, state: model.initialState(1), tokens: [] };
    using decoder = model.decoder(2);
    decoder.begin(open(model, row), row.state, [0]).dispose();
    const [good] = await numbers([decoder.begin(open(model, row), row.state, [1])]);
    const both = Tensor.from(Float64Array.of(...good!.map(() => NaN), ...good!), [2, vocabulary]),
      sampling = { temperature: 0, topK: 0, topP: 1, tokens: bos, gaps: null };
    const { tokens } = decoder.run(both, new Float64Array(4), sampling, [0, 1]);
    const [first, beside, , after] = (await numbers([tokens]))[0]!;
    expect([first, beside]).to.deep.equal([-1, good!.indexOf(Math.max(...good!.slice(0, bos)))]);
    expect(after).to.be.within(0, bos);
  });

  it("reads a source with padding anywhere as the uncached model does", async () => {
    for (const architecture of architectures) {
      await using model = await tinyModel({ architecture });
      await perturb(model, 0.2);
      const { segmentLength: T } = model.config,
        state = model.initialState(3);
      const source = new Int32Array(3 * T).map((_, i) => (i * 5) % 28);
      for (const at of [0, 1, 8, 9, 11]) source[at] = PADDING;
      source.fill(PADDING, 2 * T);
      const segment = model.upload({
        batch: 3,
        length: T,
        source,
        target: new Int32Array(3 * T).fill(PADDING),
        reset: Uint8Array.of(0, 1, 0),
      });
      using prefix = Tensor.from(Int32Array.of(3, 4, 5, 6, 7, 8), [3, 2]);
      const [wanted] = await numbers([model.logits(segment, prefix, state)]);
      using decoder = model.decoder(3);
      decoder.begin(segment, state, [2, 0, 1]).dispose();
      decoder.step([3, 5, 7], [2, 0, 1]).dispose();
      const [found] = await numbers([decoder.step([4, 6, 8], [2, 0, 1])]);
      expect(apart([found!], [wanted!]), architecture).to.be.at.most(1e-12);
    }
  });
});

describe("rows that decode together", function () {
  this.timeout(200_000);

  it("begin and end in one pass where that is allowed, to rounding as one by one", async () => {
    const rows = 70; // more than a pass takes
    for (const architecture of architectures) {
      await using model = await tinyModel({ architecture });
      await perturb(model, 0.2);
      const { segmentLength: T, bos } = model.config,
        slots = Array.from({ length: rows }, (_, slot) => (slot * 3) % rows);
      const made = async (deterministic: boolean): Promise<number[][]> => {
        using decoder = model.decoder(rows, { deterministic });
        const all: number[][] = [];
        let state = model.initialState(rows);
        for (let round = 0; round < 2; round++) {
          const source = Int32Array.from({ length: rows * T }, (_, i) => (i * 7 + round) % bos);
          for (let row = 0; row < rows; row += 4) source.fill(PADDING, (row + 1) * T - 1 - (row % T), (row + 1) * T);
          const reset = Uint8Array.from(slots, (slot) => (slot + round) % 2),
            target = new Int32Array(rows * T).fill(PADDING),
            segment = model.upload({ batch: rows, length: T, source, target, reset });
          const logits = [decoder.begin(segment, state, slots)];
          for (let i = 1; i < T; i++) {
            const tokens = slots.map((slot) => (slot + i) % bos);
            logits.push(decoder.step(tokens, slots));
          }
          all.push(...(await numbers(logits)));
          state = decoder.end(slots);
          all.push(...(await numbers(state.map((part) => applyOperator("aten::clone", part, null)))));
        }
        return all;
      };
      expect(apart(await made(false), await made(true)), architecture).to.be.at.most(1e-12);
    }
  });

  it("are decoded by options that there are", async () => {
    await using model = await tinyModel();
    const wrong = (options: object): unknown => failure(Promise.resolve().then(() => model.decoder(1, options)));
    for (const [options, message] of [
      [{ determinstic: false }, /there is no option "determinstic"; did you mean "deterministic"/],
      [{ deterministic: 1 }, /deterministic: expected boolean, received number|deterministic: .*boolean.*1/],
    ] as const) {
      const error = (await wrong(options)) as Error & { code: string };
      expect(error.message).to.match(message);
      expect(error.code).to.equal("ERR_MEMFORMER_CONFIG");
    }
  });

  for (const architecture of ["encoder-decoder", "decoder", "transformer-xl", "rmt"] as const)
    it(`give each the bits it gives alone where their segments begin and end together: ${architecture}`, () =>
      expectBordersTogether({ architecture, precision: "float32" }, 3));

  it("give each the bits it gives alone, each at its own place in its segment", async () => {
    for (const setting of [
      { architecture: "encoder-decoder" },
      { architecture: "decoder" },
      { architecture: "decoder", position: "relative", queryKeyNorm: true },
      { architecture: "encoder-decoder", position: "t5", constantSlots: 2 },
      { architecture: "encoder-decoder", precision: "bfloat16" },
      { architecture: "decoder", precision: "float64", readGate: true },
      { architecture: "transformer-xl" },
      { architecture: "compressive-transformer" },
      { architecture: "rmt" },
      { architecture: "rmt", position: "t5" },
      { architecture: "gated-delta" },
    ] as const satisfies CreateOptions[]) {
      await using model = await tinyModel({ precision: "float32", segmentLength: 7, width: 24, ...setting });
      await perturb(model, 0.2);
      const { segmentLength: T } = model.config,
        R = 6;
      const documents = Array.from({ length: R }, (_, r) => draw(model, 3, 20 + r));
      const alone = [];
      for (const tokens of documents) alone.push(await cached(model, tokens));
      // Row r starts r steps late, so that its segments end between the others'.
      using decoder = model.decoder(R);
      const rows: Row[] = documents.map((tokens) => ({ previous: undefined, state: model.initialState(1), tokens }));
      const place = rows.map((_, r) => -r),
        logits: string[][] = rows.map(() => []);
      const begin = async (r: number): Promise<void> => {
        using made = decoder.begin(open(model, rows[r]!), rows[r]!.state, [r]);
        logits[r]!.push(await bits(made));
      };
      while (place.some((at, r) => at < rows[r]!.tokens.length)) {
        const stepped: number[] = [];
        for (const [r, row] of rows.entries()) {
          const at = place[r]!++;
          if (at < 0 || at > row.tokens.length) continue;
          if (at > 0 && at % T === 0) {
            row.state = decoder.end([r]);
            expect(Array.from(await row.state[0]!.data(), Number)).to.deep.equal(alone[r]!.states[at / T - 1]);
            row.previous = Int32Array.from(row.tokens.slice(at - T, at));
          }
          if (at === row.tokens.length) continue;
          if (at % T === 0) await begin(r);
          else stepped.push(r);
        }
        if (stepped.length === 0) continue;
        using made = decoder.step(
          stepped.map((r) => rows[r]!.tokens[place[r]! - 2]!),
          stepped,
        );
        const values = Array.from(await made.data(), Number),
          V = model.config.vocabulary;
        for (const [i, r] of stepped.entries()) {
          const wanted = alone[r]!.logits[place[r]! - 1];
          expect(values.slice(i * V, (i + 1) * V), `${JSON.stringify(setting)}, row ${r}`).to.deep.equal(wanted);
        }
      }
      expect(logits.map((all) => all.length)).to.deep.equal(rows.map(() => 3));
    }
  });

  it("begin and end together as each does alone, to the bit", async () => {
    for (const architecture of architectures) {
      await using model = await tinyModel({ architecture, precision: "float32" });
      await perturb(model, 0.2);
      const { segmentLength: T } = model.config,
        R = 5;
      const source = new Int32Array(R * T).map((_, i) => (i * 7) % 28),
        target = new Int32Array(R * T).fill(PADDING);
      const reset = Uint8Array.of(1, 0, 0, 1, 0);
      // What other text has left in each row.
      const state = tidy(() =>
        randomWindow(model, { batch: R, segments: 3, seed: 3, ragged: false }).reduce<State>(
          (before, segment) => model.advance(model.upload(segment), before),
          model.initialState(R),
        ),
      );
      using segmentsPerStep = model.decoder(R),
        one = model.decoder(1);
      const slots = [3, 1, 4, 0, 2];
      const all = model.upload({ batch: R, length: T, source, target, reset });
      const [logits] = await numbers([segmentsPerStep.begin(all, state, slots)]);
      segmentsPerStep.step([1, 2, 3, 4, 5], slots).dispose();
      const after = await numbers(segmentsPerStep.end(slots));
      for (let r = 0; r < R; r++) {
        const V = model.config.vocabulary,
          own = tidy(() =>
            state.map((part) => applyOperator("aten::contiguous", applyOperator("aten::narrow", part, 0, r, 1))),
          );
        const alone = model.upload({
          batch: 1,
          length: T,
          source: source.slice(r * T, (r + 1) * T),
          target: target.slice(0, T),
          reset: reset.slice(r, r + 1),
        });
        const [begun] = await numbers([one.begin(alone, own)]);
        expect(logits!.slice(r * V, (r + 1) * V)).to.deep.equal(begun);
        one.step([r + 1]).dispose();
        const ended = await numbers(one.end());
        ended.forEach((part, i) => {
          expect(after[i]!.slice(r * part.length, (r + 1) * part.length)).to.deep.equal(part);
        });
        for (const tensor of own) tensor.dispose();
      }
      for (const tensor of state) tensor.dispose();
    }
  });
});

describe("a decoder", function () {
  this.timeout(60_000);

  it("refuses what it cannot do, by name, and goes on", async () => {
    await using model = await tinyModel();
    const { segmentLength: T } = model.config;
    const row: Row = { previous: undefined, state: model.initialState(1), tokens: [] };
    using decoder = model.decoder(2);
    const refused = async (call: () => unknown, code: string, message: RegExp): Promise<void> => {
      const error = await failure((async () => call())());
      expect(error.code).to.equal(`ERR_MEMFORMER_${code}`);
      expect(error.message).to.match(message);
    };
    await refused(() => model.decoder(0), "CONFIG", /slots must be a whole number of at least 1, got 0/);
    await refused(() => decoder.step([1]), "CONFIG", /slot 0 has no open segment; call begin\(\) first/);
    await refused(() => decoder.end(), "CONFIG", /slot 0 has no open segment/);
    await refused(() => decoder.begin(open(model, row), row.state, [2]), "CONFIG", /there is no slot 2/);
    await refused(() => decoder.begin(open(model, row), row.state, [0, 0]), "CONFIG", /slot 0 is named twice/);
    await refused(() => decoder.begin(open(model, row), row.state, [0, 1]), "SHAPE", /got 1 rows for 2 slots/);
    await refused(() => decoder.begin(open(model, row), []), "SHAPE", /a state of 1 tensor/);
    decoder.begin(open(model, row), row.state).dispose();
    await refused(() => decoder.step([29]), "TOKEN_RANGE", /token 29 at position 0/);
    await refused(() => decoder.step([-1]), "TOKEN_RANGE", /token -1/);
    await refused(() => decoder.step([1, 2]), "SHAPE", /got 2 for 1 slots/);
    await refused(() => decoder.prefill([]), "SHAPE", /at least one token/);
    const sampling = { temperature: 1, topK: 0, topP: 1, tokens: 28, gaps: null },
      of = (rows: number): Tensor => Tensor.from(new Float64Array(29 * rows), [rows, 29]);
    for (const [points, logits, code, message] of [
      [0, of(1), "SHAPE", /a point a draw and slot, got 0 for 1 slots/],
      [T, of(1), "SHAPE", /slot 0 holds 0 of its segment's 6 tokens; 6 more/],
    ] as const)
      await refused(() => decoder.run(logits, new Float64Array(points), sampling), code, message);
    for (const draws of [[1], [2, 2], [3], [0], [1.5], []])
      await refused(
        () => decoder.run(of(1), new Float64Array(2), sampling, [0], true, draws),
        "SHAPE",
        /draws a slot, 2 of the first and never more than of the one before/,
      );
    await refused(() => decoder.run(of(1), new Float64Array(1), [sampling, sampling]), "SHAPE", /got 2 for 1/);
    for (const floor of [1, NaN])
      await refused(() => decoder.run(of(1), new Float64Array(1), { ...sampling, floor }), "CONFIG", /floor must be/);
    const bias = Tensor.from(new Float64Array(1), [1, 1]),
      short = decoder.run(of(1), new Float64Array(1), { ...sampling, bias });
    expect((await failure(short.tokens.read())).message).to.match(/bias and gaps of a run are \(1, V\), V = 29/);
    decoder.begin(open(model, row), row.state).dispose();
    const wide = decoder.run(of(2), new Float64Array(1), sampling);
    expect((await failure(wide.tokens.read())).message).to.match(
      /a run of 1 slots takes logits \(R, V\) of as many rows/,
    );
    decoder.begin(open(model, row), row.state).dispose();
    await refused(
      () => decoder.prefill(new Array<number>(T).fill(1)),
      "SHAPE",
      /slot 0 holds 0 of its segment's 6 tokens; 6 more/,
    );
    decoder.prefill(new Array<number>(T - 1).fill(1)).dispose();
    expect(decoder.position()).to.equal(T - 1);
    await refused(() => decoder.step([1]), "SHAPE", /1 more leave none to predict/);
    const [state] = await numbers(decoder.end());
    expect(state!.every(Number.isFinite)).to.be.true;
    expect(decoder.position()).to.be.undefined;
    decoder.dispose();
    await refused(() => decoder.begin(open(model, row), row.state), "DISPOSED", /has been disposed of/);
    await using encoder = await tinyModel({ architecture: "encoder" });
    await refused(() => encoder.decoder(), "CONFIG", /architecture "encoder" has no next token/);
  });

  it("whose call failed never steps from the wrong place", async () => {
    await using model = await tinyModel();
    const row: Row = { previous: undefined, state: model.initialState(1), tokens: [] };
    using decoder = model.decoder();
    using wrong = Tensor.from(new Float64Array(4), [4]);
    using begun = decoder.begin(open(model, row), [wrong]),
      stepped = decoder.step([1]);
    expect((await failure(begun.read())).code).to.equal("ERR_MEMFORMER_SHAPE");
    expect((await failure(stepped.read())).message).to.match(
      /slot 0 should hold 0 tokens of its segment, but none is open/,
    );
    const again = decoder.begin(open(model, row), row.state);
    expect((await numbers([again]))[0]!.every(Number.isFinite)).to.be.true;
  });
});
