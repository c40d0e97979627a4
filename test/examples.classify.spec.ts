import { expect } from "chai";
import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import { Classifier, LabelledDocuments } from "../examples/classify.ts";
import { bptt, evaluate, mrbp, Random, tidy, Trainer, type CreateOptions, type TrainStep } from "../lib/index.ts";
import { numbers } from "./support/models.ts";
import { temporary } from "./support/runs.ts";

const [T, S] = [6, 3];
const options: CreateOptions = {
  preset: "tiny",
  vocabulary: 12,
  bos: 11,
  width: 16,
  heads: 2,
  feedForward: 32,
  encoderLayers: 1,
  memorySlots: 4,
  segmentLength: T,
  device: "cpu",
};

/** The label stands in the first segment alone: only the memory brings it to the last. */
const stream = (lanes = 8): LabelledDocuments =>
  new LabelledDocuments(
    async (n) => {
      const random = new Random(3, n),
        label = random.below(2),
        tokens = Int32Array.from({ length: S * T }, () => 2 + random.below(9));
      tokens[1] = label;
      return Promise.resolve({ tokens, label });
    },
    lanes,
    T,
    S,
    12,
  );

describe("examples/classify.ts: a head and a loss of one's own on a Memformer encoder", function () {
  this.timeout(120_000);

  it("MRBP gives the gradient of BPTT, to the head and through the memory", async () => {
    await using model = await Classifier.create(2, { ...options, precision: "float64", dropout: 0.1 });
    const documents = stream(4),
      window = [await documents.next(), await documents.next(), await documents.next()];
    const gradients = async (method: typeof mrbp): Promise<number[][]> => {
      model.zeroGradients();
      const { losses, state, gradient } = tidy(() =>
        method(
          model,
          window.map((segment) => model.upload(segment)),
          model.initialState(4),
          { seed: 5 },
        ),
      );
      const reached = model.parameters.map(({ name }) => model.gradient(name));
      return numbers([...losses, ...state, ...gradient, ...reached]);
    };
    const exact = (await gradients(bptt)).flat(),
      found = (await gradients(mrbp)).flat();
    found.forEach((value, i) => {
      expect(value).to.be.closeTo(exact[i]!, 1e-10);
    });
    expect(model.parameters.at(-1)!.name).to.equal("head.weight");
    using head = model.gradient("head.weight");
    expect((await head.data()).some((value) => Number(value) !== 0)).to.be.true;
  });

  it("learns a label that only the memory holds; resumes to the bit; an ablated memory guesses", async () => {
    const folder = await temporary();
    try {
      const train = async (model: Classifier, run: string, resume = false): Promise<TrainStep[]> => {
        using trainer = new Trainer(model, { steps: 200, horizon: S, learningRate: 1e-2, warmup: 5, saveEvery: 100 });
        const made: TrainStep[] = [];
        for await (const step of trainer.run(stream(), { checkpoints: join(folder.path, run), resume }))
          made.push(step);
        return made;
      };
      await using model = await Classifier.create(2, options);
      const whole = await train(model, "whole");
      expect(whole[0]!.loss).to.be.closeTo(Math.LN2, 0.3);
      await cp(join(folder.path, "whole"), join(folder.path, "half"), { recursive: true });
      await rm(join(folder.path, "half", "step-000200"), { recursive: true });
      await rm(join(folder.path, "half", "last.json"));
      await using again = await Classifier.create(2, { ...options, seed: 4 });
      const rest = await train(again, "half", true);
      const facts = (steps: TrainStep[]) => steps.slice(-100).map(({ loss, gradientNorm }) => [loss, gradientNorm]);
      expect(facts(rest)).to.deep.equal(facts(whole));
      const { perplexity, ablations } = await evaluate(model, stream(), { segments: 30 });
      expect(perplexity).to.be.below(1.2);
      expect(ablations.initial!.perplexity).to.be.above(1.6);
    } finally {
      await folder.remove();
    }
  });
});
