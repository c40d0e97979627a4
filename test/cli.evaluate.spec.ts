import { expect } from "chai";
import fc from "fast-check";
import { cp, rm, writeFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { Memformer, openTokenizer, tokensInMemory, type Evaluation } from "../lib/index.ts";
import { evaluateSource } from "../lib/evaluate/source.ts";
import { Bench, tiny, type Outcome } from "./support/run-cli.ts";

describe("memformer evaluate, generate, inspect", function () {
  let bench: Bench;
  before(async () => {
    bench = new Bench();
    const { code, stderr } = await bench.run(
      "train",
      "--data",
      bench.text,
      "--out",
      "run",
      ...tiny,
      "--steps",
      "60",
      "--held-out",
      "0.3",
      "--save-every",
      "40",
    );
    expect(code, stderr).to.equal(0);
  });
  after(() => {
    bench.remove();
  });

  it("scores a twin beside, and tells what the memory is worth", async () => {
    const trained = await bench.run(
      ...["train", "--data", bench.text, "--out", "twin", ...tiny],
      ...["--steps", "40", "--held-out", "0.3", "--no-memory"],
    );
    expect(trained.code, trained.stderr).to.equal(0);
    const { code, stdout, stderr } = await bench.run("evaluate", "run", "--twin", "twin", "--json");
    expect(code, stderr).to.equal(0);
    const found = JSON.parse(stdout) as Evaluation & { twin: Evaluation & { model: string }; worth: Evaluation };
    const alone = JSON.parse((await bench.run("evaluate", "twin", "--json")).stdout) as Evaluation;
    expect(found.twin).to.deep.include({ model: "twin/model", nats: alone.nats, tokens: found.tokens });
    expect(found.worth.bitsPerByte).to.equal(alone.bitsPerByte - found.bitsPerByte);
    expect(stderr).to.include("the twin was trained for 40 steps, the model for 60");
    const table = await bench.run("evaluate", "run", "--twin", "twin", "--ablations", "none", "--data", bench.text);
    expect(table.stdout).to.match(/\nwhole .*\ntwin .*\n\d+ tokens/);
    expect(table.stdout)
      .to.match(/\nthe memory is worth -?[\d.e-]+ bits per byte\n/)
      .and.to.include("--twin");
  });

  it("refuses a twin that is none", async () => {
    const [whole, other] = await Promise.all([
      bench.run("evaluate", "run", "--twin", "run"),
      bench.run("evaluate", "twin", "--twin", "twin"),
    ]);
    expect(whole.stderr).to.include("--twin run was trained with its memory; train the twin with --no-memory");
    expect(other.stderr).to.include("--twin needs a model with a memory: twin/model was trained without");
    for (const { code, stderr } of [whole, other]) {
      expect(code).to.equal(2);
      expect(stderr).to.include("ERR_MEMFORMER_CONFIG");
    }
  });

  it("evaluates the run's own held-out text, with every ablation", async () => {
    const { code, stdout, stderr } = await bench.run("evaluate", "run", "--json");
    expect(code, stderr).to.equal(0);
    const found = JSON.parse(stdout) as Evaluation & { bytes: number };
    expect(found).to.have.all.keys(
      "model",
      "step",
      "notes",
      "data",
      "split",
      "lanes",
      "tokens",
      "bytes",
      "documents",
      "cuts",
      "seconds",
      "nats",
      "perplexity",
      "bitsPerToken",
      "bitsPerByte",
      "ablations",
    );
    expect(found).to.deep.include({ model: "run/model", data: bench.text, split: "valid", lanes: 4 });
    // A byte a token: what is scored is what was held out, all of it.
    expect(found.tokens).to.equal(found.bytes);
    expect(found.bytes / 12_500).to.be.within(0.2, 0.5);
    expect(found.ablations).to.have.all.keys("initial", "zeroed", "shuffled", "frozen");
    for (const score of [found, ...Object.values(found.ablations)]) {
      expect(score.bitsPerByte)
        .to.be.closeTo(score.nats / Math.LN2 / found.bytes, 1e-9)
        .and.be.within(1, 8);
      expect(score.perplexity).to.be.closeTo(2 ** score.bitsPerToken, 1e-6);
    }
    expect(found.ablations.zeroed!.nats).to.not.equal(found.nats);
  });

  it("prints a table, and takes one lane without shuffling", async () => {
    const { code, stdout, stderr } = await bench.run(
      "evaluate",
      "run/checkpoints/step-000040",
      "--lanes",
      "1",
      "--segments",
      "3",
      "--split",
      "train",
    );
    expect(code, stderr).to.equal(0);
    expect(stdout).to.match(
      /^memory( +bits per (byte|token)){2} +perplexity\nwhole .*\ninitial .*\nzeroed .*\nfrozen .*\n/,
    );
    expect(stdout).to.match(/\n48 tokens, 48 bytes of .*text\.txt \(train\), [^\n]+\n/);
    // What each row measures, and what none of them does.
    expect(stdout).to.match(
      /\n {2}initial +[^\n]+\n {2}zeroed +[^\n]+\n {2}frozen +[^\n]+\nAblations [^\n]+ twin trained without [^\n]+\n$/,
    );
  });

  it("takes the ablations asked for, or none, and refuses one that there is not", async () => {
    const take = async (names: string): Promise<string[]> => {
      const { code, stdout, stderr } = await bench.run(
        "evaluate",
        "run",
        "--json",
        "--segments",
        "2",
        "--ablations",
        names,
      );
      expect(code, stderr).to.equal(0);
      return Object.keys((JSON.parse(stdout) as Evaluation).ablations);
    };
    expect(await take("frozen, initial")).to.deep.equal(["frozen", "initial"]);
    expect(await take("none")).to.deep.equal([]);
    const { code, stderr } = await bench.run("evaluate", "run", "--ablations", "shufled");
    expect(code).to.equal(2);
    expect(stderr).to.include('there is no ablation "shufled"; did you mean "shuffled"?');
    expect((await bench.run("evaluate", "--help")).stdout)
      .to.match(/initial .*zeroed .*shuffled .*frozen /s)
      .and.include("twin trained without");
  });

  it("continues a prompt, the same for the same seed, another for another", async () => {
    const generate = async (...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await bench.run(
        "generate",
        "run",
        "--prompt",
        "Chapter",
        "--max-tokens",
        "40",
        "--threads",
        "1",
        ...args,
      );
      expect(code, stderr).to.equal(0);
      return stdout;
    };
    const [one, again, other] = [
      await generate("--seed", "2"),
      await generate("--seed", "2"),
      await generate("--seed", "3"),
    ];
    expect(one).to.equal(again).and.not.equal(other);
    expect(one.length).to.be.at.least(20);
    const greedy = await generate("--temperature", "0", "--seed", "1");
    expect(greedy).to.equal(await generate("--top-k", "1", "--seed", "2"));
  });

  it("reads the prompt from a file or the standard input by the rules of data", async () => {
    const text = "Chapter 1. The whale, naïve as";
    const options = ["--max-tokens", "20", "--temperature", "0", "--threads", "1"];
    const fromFile = (name: string): Promise<Outcome> =>
      bench.run("generate", "run", "--prompt-file", name, ...options);
    const fromInput = (bytes: Uint8Array): Promise<Outcome> => {
      const { child, ended } = bench.start("generate", "run", "--prompt", "-", ...options);
      child.stdin!.end(bytes);
      return ended;
    };
    await writeFile(bench.path("prompt.txt"), text);
    await writeFile(bench.path("marked.txt"), `\ufeff${text}`);
    const plain = await fromFile("prompt.txt");
    expect(plain.code, plain.stderr).to.equal(0);
    expect((await fromFile("marked.txt")).stdout).to.equal(plain.stdout);
    for (const bytes of [Buffer.from(text), Buffer.from(`\ufeff${text}`), gzipSync(text)]) {
      expect((await fromInput(bytes)).stdout).to.equal(plain.stdout);
    }
    const latin1 = Buffer.from(text, "latin1");
    await writeFile(bench.path("latin1.txt"), latin1);
    for (const refused of [await fromFile("latin1.txt"), await fromInput(latin1)]) {
      expect(refused.code).to.equal(1);
      expect(refused.stderr).to.match(/(latin1\.txt|the standard input) is not UTF-8/);
      expect(refused.stdout).to.equal("");
    }
  });

  it("inspects a run: configuration, parameters by group, checkpoints", async () => {
    const { code, stdout, stderr } = await bench.run("inspect", "run", "--json");
    expect(code, stderr).to.equal(0);
    const found = JSON.parse(stdout) as {
      config: object;
      total: object;
      groups: { group: string }[];
      checkpoints: { step: number; last: boolean }[];
    };
    expect(found.config).to.deep.include({ width: 64, segmentLength: 16, vocabulary: 257 });
    await using model = await Memformer.load(bench.path("run/model"));
    expect(found.total).to.deep.include({
      tensors: model.parameters.length,
      parameters: model.parameterCount,
      bytes: 4 * model.parameterCount,
    });
    expect(found.groups.map(({ group }) => group)).to.include.members([
      "embedding",
      "encoder.0",
      "decoder.0",
      "writer",
    ]);
    expect(found.checkpoints.map(({ step, last }) => [step, last])).to.deep.equal([
      [40, false],
      [60, true],
    ]);
    expect((await bench.run("inspect", "run")).stdout).to.match(/^ {2}writerQueryKeyNorm +true$/m);
    expect((await bench.run("inspect", "run")).stdout)
      .to.match(/total +\d+ +\d+ +\d+ kB\n/)
      .and.match(/step-000060 +60 +.*last/);
  });

  it("takes the last checkpoint of a run that has not ended, and a model that stands alone", async () => {
    await cp(bench.path("run"), bench.path("unfinished"), { recursive: true });
    await rm(bench.path("unfinished/model"), { recursive: true });
    expect(JSON.parse((await bench.run("inspect", "unfinished", "--json")).stdout).model).to.match(
      /unfinished\/checkpoints\/step-000060$/,
    );
    await cp(bench.path("run/model"), bench.path("elsewhere/deep/down/alone"), { recursive: true });
    await rm(bench.path("elsewhere/deep/down/alone/run.json"));
    const asked = await bench.run("evaluate", "elsewhere/deep/down/alone");
    expect(asked.code).to.equal(2);
    expect(asked.stderr).to.include("there is no text to read");
  });

  it("counts the bytes of what it scores, whatever the tokens", async () => {
    const tokenizer = await openTokenizer("gpt2");
    const text = "The naïve whale — swam 🐋 on. ".repeat(16);
    const source = tokensInMemory(
      Array.from({ length: 4 }, () => tokenizer.encode(text)),
      tokenizer,
    );
    await using model = await Memformer.create({
      preset: "tiny",
      width: 16,
      vocabulary: tokenizer.vocabulary,
      bos: tokenizer.bos,
    });
    const score = async (lanes: number, segments?: number): ReturnType<typeof evaluateSource> =>
      evaluateSource(model, source, { lanes, segments, ablations: [] });
    const whole = await score(2);
    expect(whole.bytes).to.equal(4 * Buffer.byteLength(text));
    expect(whole.tokens).to.equal(source.tokens);
    const asMany = await score(2, 1_000);
    expect([asMany.bytes, asMany.tokens, asMany.bitsPerByte]).to.deep.equal([
      whole.bytes,
      whole.tokens,
      whole.bitsPerByte,
    ]);
    const part = await score(2, 3);
    expect(part.tokens).to.equal(2 * 3 * 16);
    expect(part.bytes).to.equal(Math.round((2 * Buffer.byteLength(text) * 3 * 16) / tokenizer.encode(text).length));
    // More lanes than documents: the lanes idle, no document is cut.
    expect(await score(7)).to.deep.include({ tokens: source.tokens, documents: 4, cuts: 0 });
  });

  it("finds the same bits per byte for every number of lanes, and cuts documents only where it is asked to", async () => {
    await using model = await Memformer.create({ preset: "tiny", width: 16, segmentLength: 8, precision: "float64" });
    const tokenizer = await openTokenizer("bytes");
    const lengths = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 5 });
    const options = fc.record({ lanes: fc.integer({ min: 1, max: 9 }), segments: fc.integer({ min: 1, max: 40 }) });
    await fc.assert(
      fc.asyncProperty(lengths, options, async (documents, { lanes, segments }) => {
        // As a normalizer has it: the text has other bytes than its tokens spell.
        const source = tokensInMemory(
          documents.map((length, i) => ({
            tokens: tokenizer.encode("whale ".repeat(10).slice(0, length)),
            bytes: 3 * length + i,
          })),
          tokenizer,
        );
        const score = async (more: object): ReturnType<typeof evaluateSource> =>
          evaluateSource(model, source, { lanes: 1, ablations: [], ...more });
        const whole = await score({});
        expect(whole).to.deep.include({
          tokens: source.tokens,
          bytes: source.bytes,
          documents: documents.length,
          cuts: 0,
        });
        for (const asked of [{ lanes }, { lanes, segments: 9999 }]) {
          const found = await score(asked);
          expect(found).to.deep.include({ tokens: source.tokens, bytes: source.bytes, cuts: 0 });
          expect(found.bitsPerByte).to.be.closeTo(whole.bitsPerByte, 1e-10);
        }
        const part = await score({ lanes, segments });
        expect(part.tokens).to.be.at.most(segments * lanes * 8);
        expect(part.bytes / part.tokens).to.be.within(2.5, 8);
        const cut = await score({ lanes, documentLimit: 16 });
        expect(cut.cuts).to.equal(documents.reduce((sum, length) => sum + Math.ceil(length / 16) - 1, 0));
        expect(cut).to.deep.include({ tokens: source.tokens, bytes: source.bytes });
      }),
      { numRuns: 25 },
    );
  });
});
