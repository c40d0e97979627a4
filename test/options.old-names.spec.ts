/** What was written under older names of options is read; what is written anew under one is told the name of today. */
import { expect } from "chai";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { readManifest, writeManifest } from "../lib/checkpoint/manifest.ts";
import { evaluationPass, Memformer, modelSchema, tokensInMemory, trainSchema, type Tokenizer } from "../lib/index.ts";
import { newName, oldNames, withNewNames } from "../lib/old-names.ts";
import { parseOptions } from "../lib/options.ts";
import { fromFile } from "../lib/run/config.ts";
import { Bench, tiny } from "./support/run-cli.ts";
import { failure } from "./support/failure.ts";

const former = Object.fromEntries(Object.entries(oldNames).map(([old, now]) => [now, old]));
/** Every key of a JSON value as it was. */
const withOldNames = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(withOldNames)
    : typeof value === "object" && value !== null
      ? Object.fromEntries(Object.entries(value).map(([key, part]) => [former[key] ?? key, withOldNames(part)]))
      : value;
/** Rewrites a JSON file under the older names; the test is void if that changes nothing. */
function age(path: string): void {
  const now = readFileSync(path, "utf8"),
    before = `${JSON.stringify(withOldNames(JSON.parse(now)), null, 2)}\n`;
  expect(before, path).not.to.equal(now);
  writeFileSync(path, before);
}

describe("older names of options", () => {
  it("name an option of today each, and none that is an option still", () => {
    const options = new Set([...Object.keys(modelSchema.shape), ...Object.keys(trainSchema.shape)]);
    for (const [old, now] of Object.entries(oldNames)) {
      expect(options.has(now), now).to.equal(true);
      expect(options.has(old), old).to.equal(false);
      expect(newName(old)).to.equal(now);
    }
    expect(newName("constructor")).to.equal(undefined);
  });

  it("are replaced in a file's options, unless the new one is there too", () => {
    expect(withNewNames({ segment: 4, width: 2 })).to.deep.equal({ segmentLength: 4, width: 2 });
    expect(withNewNames({ segment: 4, segmentLength: 5 })).to.deep.equal({ segment: 4, segmentLength: 5 });
    expect(withNewNames(undefined)).to.equal(undefined);
    expect(withNewNames([1])).to.deep.equal([1]);
  });

  it("are refused in a call, which is told the name of today", () => {
    for (const [schema, options, now] of [
      [modelSchema, { segment: 4 }, "segmentLength"],
      [modelSchema, { variant: "decoder" }, "architecture"],
      [trainSchema, { together: 1 }, "segmentsPerStep"],
      [trainSchema, { rate: 1 }, "learningRate"],
      [trainSchema, { finalRate: 1 }, "finalLearningRate"],
    ] as const) {
      const old = Object.keys(options)[0]!;
      expect(() => parseOptions(schema, options, "options")).to.throw(
        `there is no option "${old}"; did you mean "${now}"?`,
      );
    }
  });

  it("are read in the position of a stream", async () => {
    const tokenizer = { name: "test", vocabulary: 50, bos: 49 } as Tokenizer;
    const source = tokensInMemory([{ tokens: Int32Array.from({ length: 20 }, (_, i) => i), bytes: 20 }], tokenizer);
    const [a, b] = [0, 0].map(() => evaluationPass(source, { lanes: 1, segmentLength: 4 }));
    await a!.next();
    const position = withOldNames(a!.position()) as ReturnType<NonNullable<typeof a>["position"]>;
    expect(position.stream).to.have.property("segment", 4);
    b!.seek(position);
    expect(await b!.next()).to.deep.equal(await a!.next());
  });

  it("open a model's config.json: the same weights", async () => {
    const folder = await mkdtemp(join(tmpdir(), "memformer-names-"));
    try {
      await using model = await Memformer.create({
        preset: "tiny",
        architecture: "decoder",
        segmentLength: 8,
        seed: 3,
      });
      await model.save(join(folder, "model"));
      age(join(folder, "model", "config.json"));
      await using found = await Memformer.load(join(folder, "model"));
      expect(found.config).to.deep.equal(model.config);
      expect(await found.weightsHash()).to.equal(await model.weightsHash());
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe("a run that was begun under older names", function () {
  this.timeout(300_000);
  let bench: Bench;
  before(() => {
    bench = new Bench();
  });
  after(() => {
    bench.remove();
  });

  it("goes on: run.json, config.json, trainer.json and its stream's position", async () => {
    const options = ["--data", bench.text, ...tiny, "--learning-rate", "0.002", "--segments-per-step", "1"];
    for (const out of ["old", "new"]) {
      const { code, stderr } = await bench.run("train", ...options, "--out", out, "--steps", "2");
      expect(code, stderr).to.equal(0);
    }
    age(bench.path("old", "run.json"));
    expect((await fromFile(bench.path("old", "run.json"))).train).to.include({
      learningRate: 0.002,
      segmentsPerStep: 1,
    });
    const checkpoints = bench.path("old", "checkpoints");
    for (const entry of readdirSync(checkpoints, { withFileTypes: true }).filter((one) => one.isDirectory())) {
      const folder = join(checkpoints, entry.name);
      age(join(folder, "config.json"));
      age(join(folder, "trainer.json"));
      const { files, ...facts } = await readManifest(folder);
      await writeManifest(folder, Object.keys(files), facts);
    }
    const losses: string[] = [];
    for (const out of ["old", "new"]) {
      const { code, stderr } = await bench.run("train", "--resume", "--out", out, "--steps", "4");
      expect(code, stderr).to.equal(0);
      expect(stderr).to.include("resumed after step 2");
      const rows = readFileSync(bench.path(out, "log.jsonl"), "utf8").trim().split("\n");
      losses.push(
        ...rows
          .map((row) => JSON.parse(row) as Record<string, unknown>)
          .filter((row) => row["step"] === 4)
          .map((row) => String(row["train/loss"])),
      );
    }
    expect(losses).to.have.length(2);
    expect(losses[0]).to.equal(losses[1]);
  });

  it("is told the flags of today", async () => {
    for (const [flag, now] of [
      ["--together", "--segments-per-step"],
      ["--rate", "--learning-rate"],
      ["--final-rate", "--final-learning-rate"],
      ["--segment", "--segment-length"],
      ["--variant", "--architecture"],
    ] as const) {
      const { code, stderr } = await bench.run("train", flag, "1");
      expect(code).to.equal(2);
      expect(stderr).to.equal(`memformer: unknown option '${flag}'\n(Did you mean ${now}?)\n`);
    }
    const { stderr } = await bench.run("doctor", "--rate", "1");
    expect(stderr).not.to.include("learning-rate");
    const error = await failure(Memformer.create({ segment: 4 } as object));
    expect(error.message).to.include('did you mean "segmentLength"?');
  });
});
