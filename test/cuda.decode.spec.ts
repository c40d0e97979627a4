/** Decoding on a GPU: its steps recorded, against `logits`, and rows of a batch against each row alone. */
import { expect } from "chai";
import { disposeSegment, type CreateOptions } from "../lib/index.ts";
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
import { describeOnGpu, GPU } from "./support/gpu.ts";
import { numbers, perturb, tinyModel } from "./support/models.ts";

describeOnGpu("decoding on a GPU, token by token", function () {
  this.timeout(200_000);

  for (const setting of settings)
    // The writer adds its steps: two of them are a rounding more.
    it(`gives what computing everything anew gives, over three segments: ${JSON.stringify(setting)}`, () =>
      expectAsUncached({ ...setting, device: GPU }, 2));

  it("computes in bfloat16 and float16 as the uncached model does, within their rounding", async () => {
    for (const architecture of architectures)
      for (const precision of ["bfloat16", "float16"] as const) {
        // Wide enough for the tensor cores.
        const wide = { width: 64, heads: 2, feedForward: 96, segmentLength: 9 };
        await using model = await tinyModel({ architecture, precision, device: GPU, ...wide });
        await perturb(model, 0.1);
        const tokens = draw(model, 3, 7);
        const wanted = await uncached(model, tokens),
          found = await cached(model, tokens);
        expect(apart(found.logits, wanted.logits), `${architecture}, ${precision}`).to.be.at.most(0.03);
      }
  });

  it("gives the same to the bit where tokens are fed at once", async () => {
    for (const architecture of architectures)
      for (const shape of [
        { width: 64, heads: 2, feedForward: 96 },
        { width: 256, heads: 4, feedForward: 1024 }, // branches of few rows are in shares
      ]) {
        const wide = { ...shape, segmentLength: 11 };
        await using model = await tinyModel({ architecture, precision: "bfloat16", device: GPU, ...wide });
        await perturb(model, 0.1);
        const tokens = draw(model, 2, 9),
          one = await cached(model, tokens);
        for (const chunk of [3, 10]) {
          const many = await cached(model, tokens, chunk);
          expect(many.states, `${architecture}, ${wide.width}, ${chunk}`).to.deep.equal(one.states);
          expect(many.logits.at(-1)).to.deep.equal(one.logits.at(-1));
        }
      }
  });

  it("draws a run as one token at a time, to the bit, each row in its own place", async () => {
    for (const architecture of architectures) await expectRuns({ architecture, device: GPU, precision: "float32" });
  });

  it("records a step by its rows, a segment's begin and its end, and replays them", async () => {
    await using model = await tinyModel({ device: GPU });
    const { segmentLength: T } = model.config,
      row: Row = { previous: undefined, state: model.initialState(1), tokens: [] };
    using decoder = model.decoder(3);
    for (let round = 0; round < 3; round++) {
      for (const slot of [0, 1, 2]) decoder.begin(open(model, row), row.state, [slot]).dispose();
      for (let i = 1; i < T; i++) decoder.step(i % 2 === 0 ? [1, 2, 3] : [1], i % 2 === 0 ? [0, 1, 2] : [0]).dispose();
      for (const tensor of decoder.end([0])) tensor.dispose();
    }
    // Begin, end, a step of one row behind a begin, whose token is on the device, and of one and of four from the host.
    expect(await decoder.capturedGraphs()).to.deep.equal({ steps: 5, refusal: "" });
  });

  it("carries a session", async () => {
    const wide = { width: 64, heads: 2, feedForward: 96, vocabulary: 257, bos: 256 };
    await using model = await tinyModel({ device: GPU, precision: "bfloat16", ...wide });
    await perturb(model, 0.1);
    const text = async (): Promise<string> => {
      using session = await model.session();
      await session.read("It was the best of times");
      let said = "";
      for await (const piece of session.generate({ maxTokens: 40, seed: 3 })) said += piece;
      return said;
    };
    expect(await text()).to.equal(await text());
  });
});

describeOnGpu("rows whose segments begin and end together on a GPU", function () {
  this.timeout(200_000);

  // First one, then twice 8 side by side; from the next segment on twice 8, then one.
  for (const setting of [
    { precision: "bfloat16", width: 64, heads: 2, feedForward: 96 },
    { precision: "bfloat16", width: 64, heads: 2, feedForward: 96, architecture: "decoder" },
    { precision: "bfloat16", width: 512, heads: 8, feedForward: 2048, memorySlots: 96, segmentLength: 64 },
    { precision: "float32", position: "relative", memorySlots: 5 },
    { precision: "float32", architecture: "transformer-xl", cacheLength: 7 },
    { precision: "float32", architecture: "gated-delta" },
    { precision: "float32", architecture: "rmt" },
  ] as const satisfies CreateOptions[])
    it(`get the bits that each gets alone: ${JSON.stringify(setting)}`, () =>
      expectBordersTogether({ device: GPU, ...setting }, 17));
});

describeOnGpu("64 rows that decode together on a GPU", function () {
  this.timeout(200_000);

  it("give each the bits it gives alone, each at its own place in its segment", async () => {
    for (const setting of [
      { architecture: "encoder-decoder", precision: "bfloat16" },
      { architecture: "decoder", precision: "bfloat16", queryKeyNorm: true },
      { architecture: "decoder", precision: "float32", position: "t5" },
      { architecture: "encoder-decoder", precision: "float16", position: "relative" },
      // Branches of few rows are in shares.
      { architecture: "encoder-decoder", precision: "bfloat16", width: 256, heads: 4, feedForward: 1024 },
      { architecture: "encoder-decoder", precision: "bfloat16", width: 512, heads: 8, feedForward: 2048 },
      {
        architecture: "encoder-decoder",
        precision: "bfloat16",
        width: 256,
        heads: 4,
        feedForward: 1024,
        readGate: true,
      },
      { architecture: "decoder", precision: "float16", width: 512, heads: 8, feedForward: 1024, queryKeyNorm: true },
    ] as const satisfies CreateOptions[]) {
      const wide = { width: 64, heads: 2, feedForward: 96, segmentLength: 7 };
      await using model = await tinyModel({ device: GPU, ...wide, ...setting });
      await perturb(model, 0.1);
      const { segmentLength: T, vocabulary: V } = model.config,
        R = 64;
      const documents = Array.from({ length: R }, (_, r) => draw(model, 2, 20 + r));
      const alone = [];
      for (const tokens of documents.slice(0, 8)) alone.push(await cached(model, tokens));
      using decoder = model.decoder(R);
      const rows: Row[] = documents.map((tokens) => ({ previous: undefined, state: model.initialState(1), tokens }));
      const place = rows.map((_, r) => -(r % 5));
      while (place.some((at, r) => at < rows[r]!.tokens.length)) {
        const stepped: number[] = [];
        for (const [r, row] of rows.entries()) {
          const at = place[r]!++;
          if (at < 0 || at > row.tokens.length) continue;
          if (at > 0 && at % T === 0) {
            row.state = decoder.end([r]);
            if (r < alone.length)
              expect(Array.from(await row.state[0]!.data(), Number)).to.deep.equal(alone[r]!.states[at / T - 1]);
            row.previous = Int32Array.from(row.tokens.slice(at - T, at));
          }
          if (at === row.tokens.length) continue;
          if (at % T === 0) {
            const segment = open(model, row);
            decoder.begin(segment, row.state, [r]).dispose();
            disposeSegment(segment);
          } else stepped.push(r);
        }
        if (stepped.length === 0) continue;
        using made = decoder.step(
          stepped.map((r) => rows[r]!.tokens[place[r]! - 2]!),
          stepped,
        );
        const [values] = await numbers([made]);
        for (const [i, r] of stepped.entries())
          if (r < alone.length)
            expect(values!.slice(i * V, (i + 1) * V), `${JSON.stringify(setting)}, row ${r}`).to.deep.equal(
              alone[r]!.logits[place[r]! - 1],
            );
      }
    }
  });
});
