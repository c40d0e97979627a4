/** Table 2's budgets: what is equal is equal, words are counted as WikiText does, times are measured once. */
import { expect } from "chai";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDataset, openTokenizer } from "../lib/index.ts";
import { segmentFlops } from "../lib/experiments/flops.ts";
import { stepsIn } from "../lib/experiments/wall-clock.ts";
import { kindsOf, trainingFlops, wikiPlan, wikiRun, wikiSizes } from "../lib/experiments/wiki/plan.ts";
import { wikiReport } from "../lib/experiments/wiki/report.ts";
import type { WikiResult, WikiScore } from "../lib/experiments/wiki/train.ts";
import { wordsOf, wordsOfSource } from "../lib/experiments/words.ts";

const place = { text: "t", vocabulary: 16_000, seed: 0 };

describe("experiments: wiki", () => {
  it("gives every model the tokens, or the FLOPs, of the first", () => {
    const { models, tokens } = wikiSizes.full;
    const costs = models.map((model) => {
      const { steps, model: options, lanes, horizon } = wikiRun("full", "FLOPs", model, { rate: 2e-3 }, place);
      return {
        steps,
        cost: lanes * horizon * segmentFlops({ ...options, vocabulary: 16_000, bos: 0 } as object).training,
      };
    });
    for (const { steps, cost } of costs)
      expect(Math.abs(steps! * cost - costs[0]!.steps! * costs[0]!.cost)).to.be.at.most(cost / 2 + 1);
    for (const model of models) {
      const { steps, lanes, horizon, model: of } = wikiRun("full", "tokens", model, { rate: 2e-3 }, place);
      expect(steps! * lanes * horizon * Number(of.segmentLength)).to.be.closeTo(tokens, tokens / 1000);
    }
    // The vocabulary counts: the output is a larger part of a smaller model.
    const small = (vocabulary: number): number =>
      wikiRun("full", "FLOPs", models.at(-1)!, { rate: 2e-3 }, { ...place, vocabulary }).steps!;
    expect(small(257)).to.be.above(small(16_000));
  });

  it("gives models of longer segments as many tokens a step, and the FLOPs of the first", () => {
    const { models, lanes: all } = wikiSizes.minutes;
    const long = models.filter(({ model }) => model.segmentLength !== undefined);
    expect(long.map(({ name }) => name)).to.have.length.above(1);
    for (const model of long) {
      const { lanes, steps, model: of, horizon } = wikiRun("minutes", "tokens", model, { rate: 2e-3 }, place);
      expect(lanes * Number(of.segmentLength)).to.equal(all * 128);
      expect(steps! * lanes * horizon * Number(of.segmentLength)).to.be.closeTo(20e6, 20e3);
      const run = wikiRun("minutes", 6, model, { rate: 4e-3 }, place),
        first = wikiRun("minutes", "tokens", models[0]!, { rate: 2e-3 }, place);
      expect(trainingFlops(run, run.steps!) / trainingFlops(first, first.steps!)).to.be.closeTo(6, 0.01);
    }
  });

  it("trains some for longer, for multiples of those FLOPs", () => {
    const { longer, longerTrainings, models } = wikiSizes.minutes,
      some = models.filter((model) => model.longer),
      own = wikiPlan("minutes", [0], place).filter(({ steps }) => steps !== null && steps > 1000);
    expect(
      own.map(({ name, rate, weightDecay, model: { dropout } }) => [name, rate, dropout, weightDecay]),
    ).to.deep.equal(
      longer.flatMap(() =>
        longerTrainings.flatMap(({ rate, dropout, weightDecay }) =>
          some.map(({ name }) => [name, rate, dropout, weightDecay]),
        ),
      ),
    );
    for (const model of some)
      for (const times of longer) {
        const [once, more] = (["FLOPs", times] as const).map(
          (kind) => wikiRun("minutes", kind, model, { rate: 2e-3 }, place).steps!,
        );
        expect(more).to.be.closeTo(times * once!, times);
      }
    const sections = wikiReport(wikiPlan("minutes", [0], place), () => undefined);
    expect(sections.map(({ title }) => title)).to.include("Equal FLOPs, 6 times as many");
  });

  it("counts words as WikiText does, the ends of lines among them", async () => {
    expect(wordsOf(" = Title = \n the <unk> , end \n")).to.equal(3 + 4 + 2);
    expect(wordsOf("")).to.equal(0);
    const tokenizer = await openTokenizer("bytes");
    await using text = await openDataset("moby-dick", { tokenizer });
    let all = 0;
    for (let i = 0; i < text.valid.documents; i++)
      all += wordsOf(tokenizer.decode(await text.valid.read(i, 0, text.valid.documentLength(i))));
    expect(await wordsOfSource(text.valid, tokenizer))
      .to.equal(all)
      .and.be.above(5000);
  });

  it("measures the time of steps once a run, so that it goes on with as many", async () => {
    const folder = await mkdtemp(join(tmpdir(), "memformer-wiki-"));
    let begun = 0;
    async function* steps(): AsyncGenerator<number> {
      begun += 1;
      yield 100; // the first ones are slow
      for (;;) yield 0.5;
    }
    try {
      expect(await stepsIn(30, join(folder, "run"), steps)).to.equal(60);
      expect(await stepsIn(30, join(folder, "run"), steps)).to.equal(60);
      expect(begun).to.equal(1);
      expect(await stepsIn(10, join(folder, "run"), steps)).to.equal(20);
      expect(begun).to.equal(2);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it("reports each model at the best of its rates, and says beside whom", () => {
    const runs = wikiPlan("full", [0, 1], place);
    const result = (bitsPerByte: number, stateBytes: number): WikiResult => {
      const valid: WikiScore = { bitsPerByte, nats: bitsPerByte, wordPerplexity: 10 * bitsPerByte, shuffledCost: null };
      return { valid, test: null, steps: 1, tokens: 1, seconds: 1, parameters: 1, stateBytes };
    };
    const [section] = wikiReport(runs, (run) => {
      if (run.name.startsWith("LSTM")) return undefined;
      const own = run.name.startsWith("Memformer"),
        cache = Number(run.model.cacheLength ?? 0);
      const bits = own ? 2 : cache === 32 ? 2.5 : 1.6;
      return {
        experiment: "wiki",
        settings: run,
        result: result(bits + (run.rate === 4e-3 ? 0 : 0.25), own ? 1000 : cache * 10),
        seconds: 1,
        machine: {},
      };
    });
    const [table] = section!.tables!;
    expect(table!.rows[0]!.slice(0, 3)).to.deep.equal([
      "Memformer 4 + 16, M 1024",
      "0.004, best of 0.001, 0.002, 0.004",
      "2.000 (2.000 to 2.000, 2 seeds)",
    ]);
    expect(table!.rows.at(-1)!.slice(0, 3)).to.deep.equal(["LSTM 4", "0.001", "not run"]);
    expect(section!.text)
      .to.match(/of all Transformer-XL.*is 25\.0 % higher/)
      .and.match(/at most as many.*cache 32.*20\.0 % lower/);
    expect(wikiReport(runs, () => undefined)).to.have.length(kindsOf("full").length);
  });
});
