import { expect } from "chai";
import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CheckpointStore, verify } from "../lib/checkpoint/store.ts";
import type { CreateOptions, TrainOptions } from "../lib/index.ts";
import { start } from "./support/children.ts";
import { failure } from "./support/failure.ts";
import { contents, runModel, task, temporary, train, weights } from "./support/runs.ts";

const files = ["model.safetensors", "optimizer.safetensors", "state.safetensors", "trainer.json", "config.json"];
let folder: Awaited<ReturnType<typeof temporary>>;

describe("resuming", function () {
  this.timeout(300_000);
  beforeEach(async () => {
    folder = await temporary();
  });
  afterEach(async () => folder.remove());

  const cases: Record<string, { model: CreateOptions; train: TrainOptions }> = {
    plainly: { model: {}, train: { horizon: 3 } },
    "with dropout, overlap and accumulation": {
      model: { dropout: 0.2, architecture: "decoder" },
      train: { horizon: 4, overlap: 2, accumulate: 2, weights: "doubling" },
    },
    "in bfloat16, by BPTT, with a GRU": {
      model: { precision: "bfloat16", writer: "gru", dropout: 0.1 },
      train: { method: "bptt", horizon: 2, schedule: "linear" },
    },
  };
  for (const [name, { model: config, train: options }] of Object.entries(cases)) {
    it(`${name}: 20 steps are 10 and 10 more, to the bit`, async () => {
      const all = { ...options, steps: 20, warmup: 5, saveEvery: 10, keep: 5, learningRate: 5e-3 };
      const [whole, halves] = [join(folder.path, "whole"), join(folder.path, "halves")];
      await using one = await runModel(config);
      const straight = await train(one, all, { checkpoints: whole });
      await cp(whole, halves, { recursive: true });
      // The second run sees the first ten steps' checkpoint alone.
      await rm(join(halves, "step-000020"), { recursive: true });
      await rm(join(halves, "last.json"));
      await using two = await runModel({ ...config, seed: 99 });
      const resumed = await train(two, all, { checkpoints: halves, resume: true });
      expect(resumed.steps.map(({ step }) => step)).to.deep.equal([11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
      const facts = ({ steps }: typeof straight) =>
        steps
          .slice(-10)
          .map((step) => [step.loss, step.gradientNorm, step.memoryGradientNorm, step.learningRate, step.tokens]);
      expect(facts(resumed)).to.deep.equal(facts(straight));
      expect(await weights(two)).to.deep.equal(await weights(one));
      const [last, again] = [join(whole, "step-000020"), join(halves, "step-000020")];
      expect(await contents(again, files)).to.deep.equal(await contents(last, files));
    });
  }

  it("survives kill -9 at random moments, every time", async () => {
    const kills = process.env["MEMFORMER_SLOW_TESTS"] === "1" ? 30 : 10;
    const code = `
      const [folder] = process.argv.slice(1);
      const model = await lib.Memformer.create({ preset: "tiny", vocabulary: 18, bos: 17, segmentLength: 8 });
      const stream = new lib.RecallStream({ lanes: 2, segmentLength: 8, keys: 4, fillers: 12, maxLag: 2 });
      const trainer = new lib.Trainer(model, { steps: 100000, horizon: 2, saveEvery: 1 });
      const fs = await import("node:fs");
      for await (const { step, loss } of trainer.run(stream, { checkpoints: folder, resume: fs.existsSync(folder) })) {
        console.log("step", step, loss);
        console.log("READY");
      }`;
    const losses = new Map<number, string>();
    let before = 0;
    for (let i = 0; i < kills; i++) {
      const child = start(code, { args: [folder.path + "/run"] });
      await child.ready;
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 250));
      child.process.kill("SIGKILL");
      const { signal, output } = await child.ended;
      expect(signal, output).to.equal("SIGKILL");
      const last = (await new CheckpointStore(folder.path + "/run").last())!;
      await verify(last);
      const { step } = JSON.parse(await readFile(join(last, "trainer.json"), "utf8")) as { step: number };
      const seen = [...output.matchAll(/^step (\d+) (\S+)$/gm)].map(([, at, loss]) => [Number(at), loss!] as const);
      expect(seen[0]![0], "goes on where the last checkpoint stood").to.equal(before + 1);
      expect(step).to.be.at.least(seen.at(-1)![0]);
      for (const [number, loss] of seen) {
        if (losses.has(number)) expect(loss, `step ${number} again`).to.equal(losses.get(number));
        losses.set(number, loss);
      }
      before = step;
    }
  });

  it("of another model is refused, with the option that differs, before anything is copied", async () => {
    const checkpoints = folder.path;
    await using model = await runModel();
    await train(model, { steps: 2, horizon: 2 }, { checkpoints });
    const others = [
      ["heads", 4],
      ["width", 32],
      ["writer", "gru"],
      ["position", "t5"],
      ["memorySlots", 5],
    ] as const;
    for (const [option, value] of others) {
      await using other = await runModel({ [option]: value, seed: 3 });
      const before = await weights(other);
      const error = await failure(train(other, { steps: 4, horizon: 2 }, { checkpoints, resume: true }));
      expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
      expect(error.message).to.include(option);
      expect(await weights(other)).to.deep.equal(before);
    }
    await using same = await runModel({ seed: 3 });
    const before = await weights(same);
    const error = await failure(train(same, { steps: 4, horizon: 2 }, { checkpoints, resume: true }, task(3)));
    expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
    expect(error.message).to.match(/4 lanes, the stream has 3/);
    expect(await weights(same)).to.deep.equal(before);
  });

  it("of a damaged checkpoint is refused before anything is copied", async () => {
    const checkpoints = folder.path;
    await using model = await runModel();
    const { steps } = await train(model, { steps: 2, horizon: 2 }, { checkpoints });
    const path = join(steps.at(-1)!.checkpoint!, "optimizer.safetensors"),
      bytes = await readFile(path);
    bytes[bytes.length - 1]! ^= 1;
    await writeFile(path, bytes);
    await using other = await runModel({ seed: 3 });
    const before = await weights(other);
    const error = await failure(train(other, { steps: 4, horizon: 2 }, { checkpoints, resume: true }));
    expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
    expect(await weights(other)).to.deep.equal(before);
  });

  it("without a checkpoint says that there is none", async () => {
    await using model = await runModel();
    const error = await failure(train(model, { steps: 1 }, { checkpoints: folder.path, resume: true }));
    expect(error.code).to.equal("ERR_MEMFORMER_IO");
    expect(error.message).to.include(folder.path);
    expect((await failure(train(model, { steps: 1 }, { resume: true }))).message).to.match(/checkpoints/);
  });

  it("of a finished run makes no more steps; with more steps asked for it goes on", async () => {
    const checkpoints = folder.path;
    await using model = await runModel();
    await train(model, { steps: 3, horizon: 2 }, { checkpoints });
    expect((await train(model, { steps: 3, horizon: 2 }, { checkpoints, resume: true })).steps).to.deep.equal([]);
    const { steps } = await train(model, { steps: 5, horizon: 2 }, { checkpoints, resume: true });
    expect(steps.map(({ step }) => step)).to.deep.equal([4, 5]);
  });
});
