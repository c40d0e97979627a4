import { expect } from "chai";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { CheckpointStore } from "../lib/checkpoint/store.ts";
import { Memformer, openTokenizer, tokensInMemory, TokenStream, Trainer } from "../lib/index.ts";
import { Bench, tiny } from "./support/run-cli.ts";

describe("memformer train", function () {
  let bench: Bench;
  before(() => {
    bench = new Bench();
  });
  after(() => {
    bench.remove();
  });
  const train = async (out: string, ...args: string[]): ReturnType<Bench["run"]> =>
    bench.run("train", "--data", bench.text, "--out", out, ...tiny, ...args);

  it("says of how much text an evaluation is, where that is not all", async () => {
    const { code, stderr } = await train("part", "--steps", "2", "--evaluate-every", "2", "--evaluate-segments", "3");
    expect(code).to.equal(0);
    expect(stderr).to.match(/step 2: held-out bits per byte [\d.]+, of the first 3 segments of each lane\n/);
  });

  it("trains, logs every step, evaluates, and leaves checkpoints and a model", async () => {
    const { code, stdout, stderr } = await train(
      "whole",
      "--steps",
      "40",
      "--evaluate-every",
      "20",
      "--save-every",
      "10",
    );
    expect(stderr)
      .to.match(/train 100 % 40\/40 · loss \d/)
      .and.match(/step 40: held-out bits per byte \d/);
    expect({ code, stdout }).to.deep.equal({ code: 0, stdout: "whole/model\n" });
    const log = await bench.log("whole");
    expect(log.map(({ step }) => step)).to.deep.equal(Array.from({ length: 40 }, (_, i) => i + 1));
    expect(log[39]!["train/loss"]).to.be.below((log[0]!["train/loss"] as number) - 1);
    expect(log[39]!["train/bits-per-byte"]).to.be.closeTo((log[39]!["train/loss"] as number) / Math.LN2, 1e-12);
    expect(log.filter((line) => "valid/bits-per-byte" in line).map(({ step }) => step)).to.deep.equal([20, 40]);
    for (const file of [
      "run.json",
      "model/config.json",
      "model/model.safetensors",
      "checkpoints/last.json",
      "checkpoints/best.json",
    ]) {
      expect(existsSync(bench.path("whole", file)), file).to.be.true;
    }
  });

  it("resumed after 20 steps, logs the same 40 as a run without a break", async () => {
    const first = await train("halves", "--steps", "20", "--evaluate-every", "20");
    expect(first.code, first.stderr).to.equal(0);
    const second = await bench.run("train", "--resume", "--out", "halves", "--steps", "40");
    expect(second.code, second.stderr).to.equal(0);
    expect(second.stderr).to.include("resumed after step 20");
    expect(await bench.log("halves")).to.deep.equal(await bench.log("whole"));
    const weights = async (run: string): Promise<Buffer> => readFile(bench.path(run, "model/model.safetensors"));
    expect((await weights("halves")).equals(await weights("whole"))).to.be.true;
  });

  for (const [signal, expected] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const) {
    it(`ends with exit code ${expected} at ${signal}, and goes on from there as if nothing had been`, async () => {
      const out = `stopped-by-${signal}`;
      const { child, ended } = bench.start("train", "--data", bench.text, "--out", out, ...tiny, "--steps", "1000000");
      child.stderr!.on("data", (piece) => {
        if (!child.killed && String(piece).includes("/1000000 · loss")) child.kill(signal);
      });
      const { code, stderr } = await ended;
      expect(code, stderr).to.equal(expected);
      const [, stopped] = /Stopped after step (\d+) of 1000000\. Continue with: memformer train --resume --out/.exec(
        stderr,
      )!;
      const steps = String(Number(stopped) + 5);
      const resumed = await bench.run("train", "--resume", "--out", out, "--steps", steps);
      expect(resumed.code, resumed.stderr).to.equal(0);
      const whole = await train(`${out}-not`, "--steps", steps);
      expect(whole.code, whole.stderr).to.equal(0);
      expect(await bench.log(out)).to.deep.equal(await bench.log(`${out}-not`));
    });
  }

  it("writes a checkpoint also when it is stopped between two steps", async () => {
    const tokenizer = await openTokenizer("bytes");
    await using model = await Memformer.create({ preset: "tiny", width: 16 });
    const source = tokensInMemory([tokenizer.encode("a text for one lane, long enough ".repeat(9))], tokenizer);
    const trainer = new Trainer(model, { steps: 9, horizon: 1 });
    const checkpoints = bench.path("between");
    for await (const { step } of trainer.run(new TokenStream(source, { lanes: 1, segmentLength: 16 }), {
      checkpoints,
    })) {
      if (step === 2) trainer.stop();
    }
    expect(trainer.step).to.equal(2);
    expect((await new CheckpointStore(checkpoints).list()).map(({ step }) => step)).to.deep.equal([2]);
  });

  it("ends at once at a second signal, the last checkpoint whole", async () => {
    const { child, ended } = bench.start(
      "train",
      "--data",
      bench.text,
      "--out",
      "twice",
      ...tiny,
      "--steps",
      "1000000",
      "--save-every",
      "1",
    );
    child.stderr!.on("data", (piece) => {
      if (/\/1000000 · loss|finishing/.test(String(piece))) child.kill("SIGINT");
    });
    expect((await ended).code).to.equal(130);
    const resumed = await bench.run("train", "--resume", "--out", "twice", "--steps", "1");
    expect(resumed.code, resumed.stderr).to.equal(0);
  });

  it("predicts the ends of documents, unless told not to; a run of before that goes on without", async () => {
    for (const [out, args] of [
      ["ends", []],
      ["endless", ["--no-ends"]],
    ] as const) {
      expect((await train(out, "--steps", "2", ...args)).code).to.equal(0);
    }
    const settings = async (out: string): Promise<Record<string, unknown>> =>
      JSON.parse(await readFile(bench.path(out, "run.json"), "utf8")) as Record<string, unknown>;
    expect([(await settings("ends"))["ends"], (await settings("endless"))["ends"]]).to.deep.equal([true, false]);
    const { ends: _, ...before } = await settings("endless");
    await writeFile(bench.path("endless", "run.json"), JSON.stringify(before));
    const { code, stderr } = await bench.run("train", "--resume", "--out", "endless", "--steps", "4");
    expect(code, stderr).to.equal(0);
    expect((await settings("endless"))["ends"]).to.equal(false);
    const changed = await bench.run("train", "--resume", "--out", "endless", "--steps", "5", "--ends");
    expect(changed.stderr).to.include("has ends false, which cannot change to true when it resumes");
  });

  it("names what a resumed run cannot change, also where it was not given", async () => {
    expect((await train("unnamed", "--steps", "1")).code).to.equal(0);
    const { code, stderr } = await bench.run(
      "train",
      "--resume",
      "--out",
      "unnamed",
      "--steps",
      "2",
      "--documents",
      "lines",
    );
    expect(stderr)
      .to.include("has documents by default, which cannot change to lines when it resumes")
      .and.not.include("undefined");
    expect(code).to.equal(1);
  });

  it("reads a run's file and a model's configuration that begin with a byte order mark", async () => {
    await writeFile(
      bench.path("bom.json"),
      `\ufeff${JSON.stringify({ data: "text.txt", out: "bom", preset: "tiny", train: { steps: 1 } })}`,
    );
    const { code, stderr } = await bench.run("train", "bom.json", "--threads", "1", "--lanes", "2");
    expect(code, stderr).to.equal(0);
    const config = bench.path("bom", "model", "config.json");
    await writeFile(config, `\ufeff${await readFile(config, "utf8")}`);
    expect((await bench.run("inspect", "bom")).code).to.equal(0);
  });

  it("takes a run from a file, flags winning", async () => {
    const file = {
      data: "text.txt",
      lanes: 2,
      out: "from-file",
      preset: "tiny",
      tensorboard: false,
      model: { width: 32 },
      train: { steps: 9, horizon: 3 },
    };
    await writeFile(bench.path("run.json"), JSON.stringify(file));
    const { code, stderr } = await bench.run("train", "run.json", "--steps", "2", "--memory-slots", "4");
    expect(code, stderr).to.equal(0);
    const stored = JSON.parse(await readFile(bench.path("from-file/run.json"), "utf8"));
    expect(stored).to.deep.include({ lanes: 2, tokenizer: "bytes" });
    expect(stored.model).to.deep.include({ width: 32, memorySlots: 4, heads: 2, segmentLength: 16 });
    expect(stored.train).to.deep.include({ steps: 2, horizon: 3, learningRate: 2e-3 });
    expect(existsSync(bench.path("from-file/tensorboard"))).to.be.false;
  });

  it("stops at a loss that is not a number, naming the step and the checkpoint that is whole", async () => {
    const { code, stderr } = await train(
      "nan",
      "--steps",
      "50",
      "--learning-rate",
      "1e38",
      "--clip",
      "0",
      "--save-every",
      "1",
      "--no-tensorboard",
    );
    expect(code).to.equal(1);
    expect(stderr)
      .to.match(
        /memformer: step \d+: the loss is .* this step changed nothing, and the last checkpoint, .*step-\d+, is whole/,
      )
      .and.include("ERR_MEMFORMER_NAN_LOSS")
      .and.not.match(/\n\s+at /);
  });

  it("refuses what would spoil a run", async () => {
    const again = await train("whole", "--steps", "50");
    expect(again.code).to.equal(2);
    expect(again.stderr).to.include("memformer: whole already holds a run: continue it with --resume");
    const wider = await bench.run("train", "--resume", "--out", "whole", "--width", "32", "--steps", "50");
    expect(wider.code).to.equal(1);
    expect(wider.stderr)
      .to.include("has width 64, which cannot change to 32 when it resumes")
      .and.include("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
    const other = await bench.run("train", "--resume", "--out", "whole", "--lanes", "5", "--steps", "50");
    expect(other.stderr).to.include("has lanes 4, which cannot change to 5 when it resumes");
    expect(JSON.parse(await readFile(bench.path("whole/run.json"), "utf8")).train.steps).to.equal(40);
    const nothing = await bench.run("train", "--resume", "--out", "nowhere");
    expect(nothing.code).to.equal(1);
    expect(nothing.stderr)
      .to.match(/cannot read .*nowhere\/run\.json/)
      .and.include("ERR_MEMFORMER_IO");
    await writeFile(bench.path("a-file"), "");
    const unwritable = await train("a-file/run", "--steps", "1");
    expect(unwritable.code).to.equal(1);
    expect(unwritable.stderr).to.include("ERR_MEMFORMER_IO");
  });
});
