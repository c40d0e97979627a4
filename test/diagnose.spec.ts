/** Three memories that `diagnose` has to tell apart: one that is used, one that is ignored, one that has collapsed. */
import { expect } from "chai";
import {
  diagnose,
  findings,
  Memformer,
  openTokenizer,
  tokensInMemory,
  TokenStream,
  Trainer,
  type CreateOptions,
  type Diagnosis,
  type TokenSource,
} from "../lib/index.ts";
import { page } from "../lib/diagnose/page.ts";
import { halfLife, norms, shares, slotClasses } from "../lib/diagnose/statistics.ts";
import { failure } from "./support/failure.ts";

const T = 4;

/**
 * Documents that show one of eight keys in their first segment and in every second after it: what stands between does
 * not tell which.
 */
async function keys(): Promise<TokenSource> {
  const documents = Array.from({ length: 64 }, (_, i) =>
    Int32Array.from({ length: 12 * T }, (_, n) => (n % (2 * T) === 0 ? 65 + (i % 8) : 32 + (n % 2))),
  );
  return tokensInMemory(documents, await openTokenizer("bytes"));
}

async function model(options: CreateOptions = {}): Promise<Memformer> {
  return Memformer.create({
    preset: "tiny",
    width: 64,
    segmentLength: T,
    forgettingBias: 0.02,
    forgettingScaled: true,
    writerValueGain: 3,
    ...options,
  });
}

async function told(one: Memformer): Promise<Diagnosis> {
  return diagnose(one, await keys(), { lanes: 8, segments: 12 });
}

describe("diagnose", function () {
  this.timeout(300_000);

  it("tells a memory that is used: another text's costs, and by how much it says", async () => {
    await using trained = await model();
    using trainer = new Trainer(trained, {
      steps: 300,
      horizon: 6,
      learningRate: 1e-3,
      warmup: 50,
      schedule: "linear",
      weightDecay: 0.01,
    });
    for await (const { loss } of trainer.run(new TokenStream(await keys(), { lanes: 32, segmentLength: T })))
      expect(loss).to.be.above(0);
    const found = await told(trained),
      { verdict, sentences } = findings(found);
    expect(verdict).to.equal("used");
    expect(found.costs.shuffled).to.be.above(0.1);
    expect(sentences[0]).to.match(/^The memory is used: another text's memory costs \d/);
    expect(found.layers.map(({ name }) => name)).to.deep.equal([
      "encoder.embedding",
      "encoder.0",
      "decoder.embedding",
      "decoder.0",
    ]);
    expect(found.lags.map(({ lag }) => lag)).to.deep.equal([0, 1, 2, 4, 8]);
    for (const { memory, readers, writer, bias } of found.lags)
      for (const norm of [memory, readers, writer, bias]) expect(norm).to.be.at.least(0);
    expect(page("runs/<one>", { verdict, sentences }, found))
      .to.match(/^<!doctype html>/)
      .and.include("runs/&lt;one>")
      .and.not.match(/https?:|NaN/);
  });

  it("tells a memory that is ignored: it differs from text to text, and nobody reads it", async () => {
    await using fresh = await model({ readStart: "zero" });
    const found = await told(fresh);
    expect(found.costs.shuffled).to.equal(0);
    expect(found.memory.at(-1)!.textShare).to.be.above(1e-3);
    expect(findings(found).verdict).to.equal("ignored");
  });

  it("tells a memory that has collapsed: it is its own start, whatever was read", async () => {
    await using forgetful = await model({ forgettingBias: 1e4, forgettingScaled: false });
    const found = await told(forgetful),
      { verdict, sentences } = findings(found);
    expect(verdict).to.equal("collapsed");
    expect(sentences.join()).to.include("forget quickly");
    expect(found.biasNorm).to.be.within(5e3, 2e4);
  });

  it("works for every architecture, and drops the gradients it takes", async () => {
    for (const architecture of ["encoder-decoder", "decoder"] as const)
      for (const writer of ["slot-attention", "gru"] as const) {
        await using one = await model({
          architecture,
          writer,
          queryKeyNorm: true,
          writerQueryKeyNorm: true,
          constantSlots: 2,
        });
        const { costs } = await told(one);
        expect(Number.isNaN(costs.otherSource)).to.equal(architecture === "decoder");
        using norm = one.clipGradients(0);
        expect(await norm.item()).to.equal(0);
      }
  });

  it("refuses an architecture without a memory writer, by name", async () => {
    for (const architecture of ["lstm", "rmt", "gated-delta", "compressive-transformer"] as const) {
      await using one = await model({ architecture });
      const { code, message } = await failure(keys().then((texts) => diagnose(one, texts)));
      expect(code).to.equal("ERR_MEMFORMER_CONFIG");
      expect(message).to.include(`architecture "${architecture}" has no memory writer to diagnose`);
    }
  });

  it("refuses fewer than two texts, which have no neighbour", async () => {
    await using one = await model();
    await diagnose(one, await keys(), { lanes: 1 }).then(
      () => expect.fail("no error"),
      (error: Error) => {
        expect(error.message).to.include("of at least 2");
      },
    );
  });
});

describe("the statistics of a diagnosis", () => {
  it("are shares of the mean square: along the row, and between rows", () => {
    expect(shares({ shape: [2, 2, 1], data: [1, 1, 1, 1] })).to.deep.equal({ alongN: 0, alongB: 0 });
    expect(shares({ shape: [2, 2, 1], data: [1, -1, 1, -1] })).to.deep.equal({ alongN: 1, alongB: 0 });
    expect(shares({ shape: [2, 2, 1], data: [1, 1, -1, -1] })).to.deep.equal({ alongN: 0, alongB: 1 });
    expect(shares({ shape: [1, 3, 1], data: [1, -1, 9] }, (_, n) => n < 2).alongN).to.equal(1);
  });

  it("are norms, classes by the mean over heads, and half-lives", () => {
    expect(norms({ shape: [1, 2, 2], data: [3, 4, 0, 2] })).to.deep.equal([5, 2]);
    expect(slotClasses({ shape: [1, 2, 4], data: [1, 0.05, 0.5, 0.9, 1, 0.1, 0.5, 0.92] })).to.deep.equal({
      latching: 0.5,
      mixing: 0.25,
      overwritten: 0.25,
    });
    expect(halfLife(1, 1)).to.equal(1);
    expect(halfLife(1, 0.02)).to.be.closeTo(35, 0.1);
  });
});
