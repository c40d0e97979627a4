/** Loss by position, and horizons at equal tokens. */
import { expect } from "chai";
import { Memformer, openTokenizer, tokensInMemory } from "../lib/index.ts";
import { evaluateSource } from "../lib/evaluate/source.ts";
import { horizon, type HorizonSettings } from "../lib/experiments/horizon.ts";
import { roundText } from "../lib/experiments/position/round-text.ts";
import { scoreByPosition } from "../lib/experiments/position/score.ts";
import { svg } from "../lib/experiments/report/chart.ts";

const ascending = (from: number, count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => from + i);

describe("experiments: loss by position", () => {
  it("reads a text round and round, each lane from a place of its own", async () => {
    const tokenizer = await openTokenizer("bytes");
    const source = tokensInMemory([ascending(0, 3), ascending(3, 4), ascending(7, 1)], tokenizer),
      round = roundText(source, 2, 20);
    expect(round.documents).to.equal(2);
    expect([...(await round.read(0, 0, 10))]).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 7, 0, 1]);
    expect([...(await round.read(1, 0, 6))]).to.deep.equal([4, 5, 6, 7, 0, 1]);
    expect([...(await round.read(1, 17, 20))]).to.deep.equal([5, 6, 7]);
  });

  for (const options of [{}, { architecture: "lstm" }, { architecture: "transformer-xl", cacheLength: 8 }] as const) {
    it(`adds up to the loss of the whole text: ${"architecture" in options ? options.architecture : "memformer"}`, async () => {
      const tokenizer = await openTokenizer("bytes");
      await using model = await Memformer.create({
        preset: "tiny",
        ...options,
        device: "cpu",
        residualStart: "scaled",
      });
      const round = roundText(tokensInMemory([ascending(0, 90), ascending(20, 38)], tokenizer), 3, 96);
      const bins = await scoreByPosition(model, round, undefined, () => undefined);
      expect(bins.map(({ end, tokens }) => [end, tokens])).to.deep.equal([
        [16, 48],
        [32, 48],
        [64, 96],
        [128, 96],
      ]);
      const whole = await evaluateSource(model, round, { lanes: 3, ablations: ["initial"] });
      const sum = (key: "nats" | "initialNats"): number => bins.reduce((total, bin) => total + bin[key], 0);
      expect(sum("nats")).to.be.closeTo(whole.nats, 1e-2);
      expect(sum("initialNats")).to.be.closeTo(whole.ablations.initial!.nats, 1e-2);
    });
  }

  it("marks the trained length where points lie around it", () => {
    const draw = (at: number): string =>
      svg({
        name: "c",
        title: "t",
        x: { label: "x", scale: "log" },
        y: { label: "y", scale: "linear" },
        series: [
          {
            name: "s",
            points: [
              [16, 1],
              [64, 2],
            ],
          },
        ],
        marks: [{ at, label: "trained <length>" }],
      });
    expect(draw(32)).to.include("trained &lt;length>").and.include('stroke-dasharray="4 4"');
    expect(draw(128)).to.not.include("trained");
    expect(draw(NaN)).to.not.match(/trained|NaN/);
  });
});

describe("experiments: horizon", () => {
  it("gives every horizon the same tokens a step", async () => {
    for (const budget of ["smoke", "minutes", "full"] as const) {
      const runs = (await horizon.plan({
        budget,
        seeds: [0],
        data: undefined,
        device: "cpu",
        folder: "",
      })) as unknown as HorizonSettings[];
      const tokens = new Set(runs.map((run) => run.lanes * run.horizon * run.accumulate! * run.steps));
      expect(tokens.size, budget).to.equal(1);
    }
  });
});
