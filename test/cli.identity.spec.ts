import { expect } from "chai";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { documentHash } from "../lib/data/index.ts";
import { Bench, tiny, type Outcome } from "./support/run-cli.ts";

const printable = (byte: number): boolean => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;

/** A tokenizer.json of the 256 bytes and two specials, of which tokenizer_config.json alone says which is BOS. */
function byteTokenizer(): { model: { vocab: Record<string, number> } } {
  let moved = 256;
  const letters = Array.from(
    { length: 256 },
    (_, byte) => [String.fromCharCode(printable(byte) ? byte : moved++), byte] as const,
  );
  const special = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const level = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  const tokenizer = {
    version: "1.0",
    normalizer: null,
    pre_tokenizer: level,
    post_processor: null,
    decoder: level,
    added_tokens: ["<doc>", "</doc>"].map((content, i) => ({ id: 256 + i, content, ...special })),
    model: { type: "BPE", vocab: Object.fromEntries(letters), merges: [], byte_fallback: false },
  };
  return tokenizer;
}

describe("a run and its text", function () {
  this.timeout(300_000);
  let bench: Bench;
  before(() => {
    bench = new Bench();
  });
  after(() => {
    bench.remove();
  });
  const ok = async (...args: string[]): Promise<Outcome> => {
    const outcome = await bench.run(...args);
    expect(outcome.code, outcome.stderr).to.equal(0);
    return outcome;
  };
  const score = async (
    ...args: string[]
  ): Promise<{ notes: string[]; bitsPerByte: number; tokens: number; step: number; model: string }> =>
    JSON.parse((await ok("evaluate", ...args, "--json", "--threads", "1")).stdout) as Awaited<ReturnType<typeof score>>;

  describe("that grows", () => {
    const file = (i: number): string => `About number ${i}. ${"The whale swam on. ".repeat(9 + ((i * 7) % 5))}`;
    before(async () => {
      mkdirSync(bench.path("f"));
      for (let i = 0; i < 60; i++) writeFileSync(bench.path("f", `${i}.txt`), file(i));
      await ok(
        "train",
        "--data",
        "f",
        "--out",
        "grown",
        ...tiny,
        "--steps",
        "20",
        "--evaluate-every",
        "20",
        "--lanes",
        "16",
      );
    });

    it("is evaluated as it was logged", async () => {
      const found = await score("grown");
      expect(found).to.deep.include({ step: 20, notes: [] });
      const logged = (await bench.log("grown")).at(-1)!["valid/bits-per-byte"] as number;
      expect(found.bitsPerByte).to.be.closeTo(logged, 1e-6);
      expect((await score("grown", "--lanes", "3", "--segments", "9999")).bitsPerByte).to.be.closeTo(logged, 1e-6);
    });

    it("is scored on what the run held out, and is refused to a resume in words", async () => {
      const before = await score("grown");
      for (let i = 60; i < 90; i++) writeFileSync(bench.path("f", `${i}.txt`), file(i));
      const after = await score("grown");
      expect(after).to.deep.include({ bitsPerByte: before.bitsPerByte, tokens: before.tokens });
      expect(after.notes[0]).to.match(
        /^the text has changed since the run was begun \(now 90 documents\); scored is exactly what the run held out: \d+ documents? of \d+ tokens$/,
      );
      const resumed = await bench.run("train", "--resume", "--out", "grown", "--steps", "21");
      expect(resumed.code).to.equal(1);
      expect(resumed.stderr)
        .to.match(/was trained on a different text: train was \d+ documents of \d+ tokens \(\w+\) and is \d+ documents/)
        .and.match(/of \d+ documents? held out then, \d+ (is|are) held out still/)
        .and.include("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
    });

    it("is known by its content: copied elsewhere, or mixed with what was trained on", async () => {
      cpSync(bench.path("f"), bench.path("moved"), { recursive: true });
      const moved = await score("grown", "--data", "moved");
      expect(moved.notes[0]).to.include("scored is exactly what the run held out");
      const { splits } = JSON.parse(readFileSync(bench.path("grown/training.json"), "utf8")) as {
        splits: Record<string, { hashes: string }>;
      };
      const trained = new Set<string>(Buffer.from(splits["train"]!.hashes, "base64").toString("hex").match(/.{16}/g));
      const hash = (text: string): string => Buffer.from(BigUint64Array.of(documentHash(text)).buffer).toString("hex");
      mkdirSync(bench.path("mixed"));
      const inTrain = Array.from({ length: 60 }, (_, i) => file(i)).filter((text) => trained.has(hash(text)));
      writeFileSync(bench.path("mixed/train.txt"), "Something else to train on.");
      writeFileSync(
        bench.path("mixed/valid.jsonl"),
        ["A new text.", ...inTrain.slice(0, 2)].map((text) => JSON.stringify({ text })).join("\n"),
      );
      expect((await score("grown", "--data", "mixed")).notes).to.deep.equal([
        "2 of the 3 documents scored were trained on",
      ]);
    });

    it("that changes wholly is not scored without a note", async () => {
      for (const name of readdirSync(bench.path("f")))
        writeFileSync(bench.path("f", name), `Other words. ${"Of other texts. ".repeat(9)}${name}`);
      expect((await score("grown")).notes[0])
        .to.include("nothing of what the run held out is there any more")
        .and.include("the scored text may have been trained on");
      rmSync(bench.path("grown/training.json"));
      rmSync(bench.path("grown/model/training.json"));
      const found = await score("grown");
      expect(found.notes[0]).to.include("whether the scored text was held out is unknown");
      expect(found.step).to.equal(20); // of a run made before steps were noted, by its settings
    });
  });

  it("is refused another text of the same length, and found from any folder", async () => {
    mkdirSync(bench.path("a"));
    mkdirSync(bench.path("b"));
    const text = readFileSync(bench.text, "utf8");
    writeFileSync(bench.path("a/t.txt"), text);
    writeFileSync(bench.path("t.txt"), text.replaceAll("a", "q"));
    await ok("train", "--data", "a/t.txt", "--out", "placed", ...tiny, "--steps", "2");
    const stored = JSON.parse(readFileSync(bench.path("placed/run.json"), "utf8")) as { data: string };
    expect(stored.data).to.equal(bench.path("a/t.txt"));
    await ok("train", "--resume", "--out", "placed", "--data", "a/t.txt", "--steps", "3");
    writeFileSync(bench.path("a/t.txt"), text.replaceAll("a", "q"));
    const other = await bench.run("train", "--resume", "--out", "placed", "--steps", "4");
    expect(other.code).to.equal(1);
    expect(other.stderr).to.include("was trained on a different text").and.include("restore the text");
  });

  it("goes on from the newest weights, which the tables name", async () => {
    await ok("train", "--data", bench.text, "--out", "newest", ...tiny, "--steps", "3");
    expect(await score("newest")).to.deep.include({ model: "newest/model", step: 3 });
    cpSync(bench.path("newest/model"), bench.path("model-3"), { recursive: true });
    const more = await ok(
      "train",
      "--resume",
      "--out",
      "newest",
      "--steps",
      "6",
      "--schedule",
      "linear",
      "--learning-rate",
      "0.01",
    );
    expect(more.stderr).to.match(
      /steps was 3 and is 6, learning-rate was 0.002 and is 0.01, schedule was constant and is linear: the learning rate of step 4 is \S+ instead of 0.002/,
    );
    // As if it had been killed before its end: the model is the one from before.
    rmSync(bench.path("newest/model"), { recursive: true });
    cpSync(bench.path("model-3"), bench.path("newest/model"), { recursive: true });
    expect(await score("newest")).to.deep.include({ step: 6 });
    expect((await ok("evaluate", "newest")).stdout).to.match(/, 1 documents?, none cut, step 6, /);
    expect((await ok("generate", "newest", "--max-tokens", "2")).stderr).to.match(/step-000006 \(step 6\)/);
    expect((await ok("inspect", "newest")).stdout).to.match(/^\S*step-000006 \(step 6\)\n/);
  });

  it("is refused another tokenizer of the same path, and each checkpoint has what it needs of its own", async () => {
    mkdirSync(bench.path("tk"));
    const tokenizer = byteTokenizer();
    writeFileSync(bench.path("tk/tokenizer.json"), JSON.stringify(tokenizer));
    writeFileSync(bench.path("tk/tokenizer_config.json"), JSON.stringify({ bos_token: "<doc>" }));
    await ok(
      "train",
      "--data",
      bench.text,
      "--tokenizer",
      "tk/tokenizer.json",
      "--out",
      "json",
      ...tiny,
      "--steps",
      "2",
    );
    cpSync(bench.path("json/checkpoints/step-000002"), bench.path("alone"), { recursive: true });
    await ok("generate", "alone", "--max-tokens", "2");
    rmSync(bench.path("json/checkpoints/step-000002/tokenizer_config.json")); // as memformer 0.1 left it
    await ok("generate", "json/checkpoints/step-000002", "--max-tokens", "2");
    cpSync(bench.path("alone"), bench.path("json/checkpoints/step-000002"), { recursive: true });
    const { vocab } = tokenizer.model;
    tokenizer.model.vocab = Object.fromEntries(Object.entries(vocab).map(([token, id]) => [token, 255 - id]));
    writeFileSync(bench.path("tk/tokenizer.json"), JSON.stringify(tokenizer));
    const resumed = await bench.run("train", "--resume", "--out", "json", "--steps", "3");
    expect(resumed.code).to.equal(1);
    expect(resumed.stderr).to.match(
      /was trained with the tokenizer "json:\w+" \(vocabulary 258, BOS 256\); it is now given "json:\w+"/,
    );
  });

  it("has one process at a time; a lock that a dead one left does not count", async () => {
    const { child, ended } = bench.start(
      "train",
      "--data",
      bench.text,
      "--out",
      "locked",
      ...tiny,
      "--steps",
      "1000000",
    );
    let second: Promise<Outcome> | undefined;
    child.stderr!.on("data", (piece) => {
      if (second === undefined && String(piece).includes("/1000000 · loss")) {
        second = bench.run("train", "--data", bench.text, "--out", "locked", ...tiny, "--steps", "1");
        void second.then(() => child.kill("SIGKILL"));
      }
    });
    await ended;
    const refused = (await second)!;
    expect(refused.code).to.not.equal(0);
    expect(refused.stderr)
      .to.match(/locked\/\.lock is held by process \d+ on /)
      .and.include("ERR_MEMFORMER_BUSY");
    const left = JSON.parse(readFileSync(bench.path("locked/.lock"), "utf8")) as object;
    expect(left).to.include({ pid: child.pid, host: hostname() });
    await ok("train", "--data", bench.text, "--out", "locked", ...tiny, "--steps", "1");
    expect(readdirSync(bench.path("locked"))).to.not.include(".lock");
  });

  it("reads the field of .jsonl that it is told", async () => {
    const lines = Array.from({ length: 30 }, (_, i) =>
      JSON.stringify({ text: "", body: `Line ${i} of a body of text. `.repeat(5) }),
    );
    writeFileSync(bench.path("x.jsonl"), lines.join("\n"));
    await ok("train", "--data", "x.jsonl", "--field", "body", "--out", "field", ...tiny, "--steps", "1");
    expect((await score("field")).tokens).to.be.above(100);
  });
});
