import { expect } from "chai";
import { mkdir, mkdtemp, readFile, readdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  openWeights,
  readConfig,
  readTokenizer,
  writeModelFolder,
  type ModelParts,
} from "../lib/checkpoint/model-files.ts";
import { tensorEntry } from "../lib/checkpoint/safetensors.ts";
import { failure } from "./support/failure.ts";

let root = "";
let folder = "";

const model = (mark: number, tokenizer?: string): ModelParts => ({
  config: { width: mark },
  tensors: [tensorEntry("w", { dtype: "uint8", shape: [1], data: Uint8Array.of(mark) })],
  tokenizer,
});

/** The mark of the model in `folder`, read from both its files. */
async function markOf(path: string): Promise<unknown> {
  const { width } = await readConfig(path);
  await using weights = await openWeights(path);
  expect((await weights.read("w")).data[0]).to.equal(width);
  return width;
}

describe("a model folder", () => {
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "memformer-model-"));
    folder = join(root, "runs", "first");
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  it("gives back config, weights and tokenizer", async () => {
    await writeModelFolder(folder, model(3, '{"model":{}}'));
    expect(await readConfig(folder)).to.deep.equal({ format: "memformer", formatVersion: 1, width: 3 });
    expect(await markOf(folder)).to.equal(3);
    expect(await readTokenizer(folder)).to.equal('{"model":{}}');
    expect((await readdir(folder)).sort()).to.deep.equal(["config.json", "model.safetensors", "tokenizer.json"]);
  });

  it("replaces an older model, its tokenizer too, and keeps the user's files beside it", async () => {
    await writeModelFolder(folder, model(1, "{}"));
    await writeFile(join(folder, "README.md"), "mine");
    await writeModelFolder(`${folder}/`, model(2));
    expect(await markOf(folder)).to.equal(2);
    expect(await readTokenizer(folder)).to.equal(undefined);
    expect(await readFile(join(folder, "README.md"), "utf8")).to.equal("mine");
    expect(await readdir(join(root, "runs"))).to.deep.equal(["first"]);
  });

  it("writes into an empty folder, and through a link", async () => {
    await mkdir(folder, { recursive: true });
    await symlink(folder, join(root, "link"));
    await writeModelFolder(join(root, "link"), model(4));
    expect(await markOf(folder)).to.equal(4);
    expect(await markOf(join(root, "link"))).to.equal(4);
  });

  it("reads the old model when a saving was killed between its two renames, and the next saving heals it", async () => {
    await writeModelFolder(folder, model(1, "{}"));
    await writeFile(join(folder, "README.md"), "mine");
    await symlink(folder, join(root, "link"));
    await rename(folder, join(root, "runs", ".first.old"));
    expect(await markOf(join(root, "link"))).to.equal(1);
    expect(await markOf(folder)).to.equal(1);
    expect(await readTokenizer(folder)).to.equal("{}");
    await writeModelFolder(folder, model(2));
    expect(await markOf(folder)).to.equal(2);
    expect((await readdir(folder)).sort()).to.deep.equal(["README.md", "config.json", "model.safetensors"]);
    expect(await readdir(join(root, "runs"))).to.deep.equal(["first"]);
  });

  it("clears an old model that a killed saving left beside the new one", async () => {
    await writeModelFolder(folder, model(2));
    await writeModelFolder(join(root, "runs", ".first.old"), model(1));
    await writeFile(join(root, "runs", ".first.old", "README.md"), "mine");
    await writeModelFolder(folder, model(3));
    expect(await markOf(folder)).to.equal(3);
    expect(await readFile(join(folder, "README.md"), "utf8")).to.equal("mine");
    expect(await readdir(join(root, "runs"))).to.deep.equal(["first"]);
  });

  it("leaves the older model when saving fails", async () => {
    await writeModelFolder(folder, model(1));
    const full = Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
    const tensors = [{ name: "w", dtype: "uint8" as const, shape: [1], read: () => Promise.reject(full) }];
    const error = await failure(writeModelFolder(folder, { config: { width: 2 }, tensors }));
    expect(error.code).to.equal("ERR_MEMFORMER_IO");
    expect(error.message).to.match(/cannot write .*model\.safetensors: ENOSPC: no space left on device/);
    expect(await markOf(folder)).to.equal(1);
    expect(await readdir(join(root, "runs"))).to.deep.equal(["first"]);
  });

  it("touches no folder that holds something else", async () => {
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "thesis.tex"), "years of work");
    const error = await failure(writeModelFolder(folder, model(1)));
    expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
    expect(error.message).to.match(/is not empty and does not hold a memformer model; nothing was changed/);
    expect(await readdir(folder)).to.deep.equal(["thesis.tex"]);
    const file = join(folder, "thesis.tex");
    expect((await failure(writeModelFolder(file, model(1)))).code).to.equal("ERR_MEMFORMER_IO");
    expect(await readFile(file, "utf8")).to.equal("years of work");
  });

  it("says what is wrong with a config", async () => {
    await mkdir(folder, { recursive: true });
    const cases: [string, RegExp, string][] = [
      ["{", /config\.json is not valid JSON/, "CHECKPOINT_FORMAT"],
      ["[]", /is valid JSON, but not an object/, "CHECKPOINT_FORMAT"],
      ["{}", /its format is missing, expected "memformer"/, "CHECKPOINT_FORMAT"],
      ['{"format":"gguf"}', /its format is "gguf", expected "memformer"/, "CHECKPOINT_FORMAT"],
      [
        '{"format":"memformer","formatVersion":2}',
        /version 2, but this memformer reads version 1; a newer memformer wrote it/,
        "CHECKPOINT_VERSION",
      ],
      ['{"format":"memformer"}', /version missing, but this memformer reads version 1$/, "CHECKPOINT_VERSION"],
    ];
    for (const [text, words, code] of cases) {
      await writeFile(join(folder, "config.json"), text);
      const error = await failure(readConfig(folder));
      expect(error.message).to.match(words);
      expect(error.code).to.equal(`ERR_MEMFORMER_${code}`);
    }
  });

  it("names the folder that is not there", async () => {
    const error = await failure(readConfig(join(root, "none")));
    expect(error.code).to.equal("ERR_MEMFORMER_IO");
    expect(error.message).to.match(/cannot read .*none\/config\.json: ENOENT/);
  });
});
