import { expect } from "chai";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CheckpointStore } from "../lib/checkpoint/store.ts";
import {
  AdamW,
  evaluationPass,
  gradientMethods,
  Memformer,
  openDataset,
  openTokenFile,
  openTokenizer,
  prepareCorpus,
  readDocuments,
  RecallStream,
  configureRuntime,
  sampler,
  tokensInMemory,
  TokenStream,
  Trainer,
  type Tokenizer,
} from "../lib/index.ts";
import { JsonlLog } from "../lib/log/jsonl.ts";
import { createProgress } from "../lib/log/progress.ts";
import { RunLog } from "../lib/log/run-log.ts";
import { modelConfig } from "../lib/model/config.ts";
import { failure } from "./support/failure.ts";
import { runModel, task } from "./support/runs.ts";

/** Any options: none of these calls may take one that it does not read. */
type Options = Record<string, unknown>;

describe("every call with options", function () {
  this.timeout(120_000);
  let folder: string, model: Memformer, tokenizer: Tokenizer;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "memformer-strict-"));
    writeFileSync(join(folder, "text.txt"), "some text to read\n".repeat(50));
    model = await runModel();
    tokenizer = await openTokenizer("bytes");
    await model.save(join(folder, "model"));
  });
  after(async () => {
    await model.dispose();
    rmSync(folder, { recursive: true });
  });

  const path = (...names: string[]): string => join(folder, ...names);
  const source = () => tokensInMemory([tokenizer.encode("a document, and another one")], tokenizer);
  const segments = async () => {
    const stream = task(),
      segment = await stream.next();
    return [model.upload(segment)];
  };

  /**
   * By name: the call with these options beside what it needs, a misspelt name and the one meant, and values out of
   * range.
   */
  const calls: Record<string, { call: (options: Options) => unknown; misspelt: [string, string]; wrong?: Options[] }> =
    {
      "Memformer.create": {
        call: async (options) => (await Memformer.create({ preset: "tiny", ...options })).dispose(),
        misspelt: ["widht", "width"],
        wrong: [
          { width: 0 },
          { seed: -1 },
          { seed: 0.5 },
          { seed: "1" },
          { threads: -1 },
          { threads: 1.5 },
          { threads: "2" },
          { preset: 3 },
          { device: 7 },
        ],
      },
      "Memformer.create, beside the model": {
        call: async (options) => Memformer.create({ preset: "tiny", ...options }),
        misspelt: ["theads", "heads"],
      },
      "Memformer.load": {
        call: async (options) => Memformer.load(path("model"), options),
        misspelt: ["devise", "device"],
        wrong: [{ width: 16 }, { precision: "half" }],
      },
      runtime: {
        call: (options) => configureRuntime(options),
        misspelt: ["thread", "threads"],
        wrong: [{ threads: NaN }, { tf32: 1 }, { deterministic: "yes" }],
      },
      sampler: { call: (options) => sampler(options), misspelt: ["top_k", "topK"], wrong: [{ seed: -1 }, { topK: 0 }] },
      "session.generate": {
        call: async (options) => {
          using session = await model.session({ ...tokenizer, vocabulary: 18 });
          return session.generate(options).next();
        },
        misspelt: ["maxtoken", "maxTokens"],
        wrong: [{ maxTokens: -1 }, { maxTokens: Infinity }],
      },
      TokenStream: {
        call: (options) => new TokenStream(source(), { lanes: 1, segmentLength: 4, ...options }),
        misspelt: ["shufle", "shuffle"],
        wrong: [{ lanes: 0 }, { repeat: "no" }, { shuffle: 0 }, { seed: 1.5 }],
      },
      evaluationPass: {
        call: (options) => evaluationPass(source(), { lanes: 1, segmentLength: 4, ...options }),
        misspelt: ["documentlimits", "documentLimit"],
        wrong: [{ shuffle: true }],
      },
      RecallStream: {
        call: (options) => new RecallStream({ lanes: 1, ...options }),
        misspelt: ["maxLags", "maxLag"],
        wrong: [{ keys: 0 }],
      },
      openDataset: {
        call: async (options) =>
          (await openDataset(path("text.txt"), { tokenizer, cache: path("cache"), ...options })).close(),
        misspelt: ["heldout", "heldOut"],
        wrong: [
          { heldOut: 1 },
          { heldOut: NaN },
          { skipEmpty: "yes" },
          { documents: "chapters" },
          { seed: -1 },
          { tokenizer: "bytes" },
        ],
      },
      prepareCorpus: {
        call: async (options) => prepareCorpus({ inputs: path("text.txt"), tokenizer, out: path("out"), ...options }),
        misspelt: ["onprogres", "onProgress"],
        wrong: [{ heldOut: 1 }, { signal: 3 }, { cache: "folder" }],
      },
      readDocuments: {
        call: async (options) => readDocuments(path("text.txt"), options).next(),
        misspelt: ["document", "documents"],
        wrong: [{ field: 3 }],
      },
      openTokenFile: {
        call: async (options) => openTokenFile(path("none"), options),
        misspelt: ["cachebyte", "cacheBytes"],
        wrong: [{ cacheBytes: -1 }],
      },
      Trainer: {
        call: (options) => new Trainer(model, options),
        misspelt: ["horizn", "horizon"],
        wrong: [{ steps: 0 }, { weightDecay: -1 }],
      },
      "trainer.run": {
        call: async (options) => {
          using trainer = new Trainer(model, { steps: 1, horizon: 1 });
          return trainer.run(task(), options).next();
        },
        misspelt: ["checkpoint", "checkpoints"],
        wrong: [{ resume: "yes" }, { evaluate: 3 }, { signal: new AbortController() }],
      },
      AdamW: {
        call: (options) => {
          new AdamW(model, options).dispose();
        },
        misspelt: ["weightdecy", "weightDecay"],
        wrong: [{ beta1: 1 }, { eps: 0 }, { beta2: NaN }],
      },
      "model.forward": {
        call: async (options) => model.forward((await segments())[0]!, model.initialState(4), options),
        misspelt: ["trainin", "training"],
        wrong: [{ seed: 1.5 }, { seed: -1 }, { seed: 2 ** 53 }],
      },
      ...Object.fromEntries(
        Object.entries(gradientMethods).map(([name, method]) => [
          name,
          {
            call: async (options: Options) => method(model, await segments(), model.initialState(4), options),
            misspelt: ["weight", "weights"] as [string, string],
            wrong: [{ seed: -1 }, { scale: NaN }, { training: "no" }, { carry: 0 }, { microBatch: 0 }],
          },
        ]),
      ),
      CheckpointStore: {
        call: (options) => new CheckpointStore(folder, options),
        misspelt: ["keeps", "keep"],
        wrong: [{ keep: 0 }],
      },
      RunLog: {
        call: async (options) => RunLog.open(path("log"), options),
        misspelt: ["tensorbord", "tensorboard"],
        wrong: [{ resumeAfter: -1 }, { tensorboard: 1 }],
      },
      JsonlLog: {
        call: async (options) => JsonlLog.open(path("l.jsonl"), options),
        misspelt: ["resumeafte", "resumeAfter"],
      },
      createProgress: {
        call: (options) => createProgress({ label: "x", total: 3, ...options }),
        misspelt: ["evry", "every"],
        wrong: [{ total: 0 }],
      },
    };

  for (const [
    name,
    {
      call,
      misspelt: [key, meant],
      wrong = [],
    },
  ] of Object.entries(calls)) {
    it(`reads each of them, or refuses it: ${name}`, async () => {
      const refused = await failure((async () => call({ [key]: 1 }))());
      expect(refused.code, refused.stack).to.equal("ERR_MEMFORMER_CONFIG");
      expect(refused.message).to.include(`there is no option "${key}"; did you mean "${meant}"?`);
      for (const options of wrong) {
        const error = await failure((async () => call(options))());
        expect(error.code, `${JSON.stringify(options)}: ${error.stack}`).to.equal("ERR_MEMFORMER_CONFIG");
        expect(error.message, JSON.stringify(options)).to.include(Object.keys(options)[0]);
      }
    });
  }

  it("takes undefined for an option that is not given", async () => {
    await using loaded = await Memformer.load(path("model"), { precision: undefined, device: undefined } as never);
    expect(loaded.config.precision).to.equal(model.config.precision);
    expect(sampler({ temperature: undefined, topK: undefined, seed: undefined })([1])).to.equal(0);
  });

  it("shows the value that came, whatever it is", () => {
    for (const [value, shown] of [
      [NaN, "NaN"],
      [-Infinity, "-Infinity"],
      ["x", '"x"'],
      [1n, "1n"],
      [() => 1, "a function"],
      [null, "null"],
    ] as const) {
      expect(() => sampler({ temperature: value as never })).to.throw(`, got ${shown}`);
    }
  });
});

describe("a choice that is none", () => {
  it("is refused with the one that was meant", () => {
    expect(() => modelConfig({ architecture: "lstmm" } as object)).to.throw(
      /architecture: expected one of .*, got "lstmm"; did you mean "lstm"\?$/,
    );
    expect(() => modelConfig({ architecture: "transformer-xxl" } as object)).to.throw(
      /did you mean "transformer-xl"\?$/,
    );
    expect(() => modelConfig({ architecture: "quite another" } as object)).to.throw(/, got "quite another"$/);
  });
});
