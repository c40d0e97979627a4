import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { chmod, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CheckpointStore, verify } from "../lib/checkpoint/store.ts";
import { makeFolder, makeFolderSync } from "../lib/files/make-folder.ts";
import { openTokenizer, prepareCorpus, Trainer } from "../lib/index.ts";
import { RunLog } from "../lib/log/run-log.ts";
import { failure } from "./support/failure.ts";
import { contents, runModel, task, temporary, train } from "./support/runs.ts";

let folder: Awaited<ReturnType<typeof temporary>>;

describe("training where it cannot write", function () {
  this.timeout(120_000);
  beforeEach(async () => {
    folder = await temporary();
  });
  afterEach(async () => folder.remove());

  it("rejects with IO when the folder for checkpoints is a file, or may not be written", async () => {
    await using model = await runModel();
    const file = join(folder.path, "file");
    await writeFile(file, "");
    const error = await failure(train(model, { steps: 1, horizon: 1 }, { checkpoints: join(file, "run") }));
    expect(error.code).to.equal("ERR_MEMFORMER_IO");
    expect(error.message).to.include(file);
    if (process.getuid?.() === 0) return; // root may write anywhere
    const locked = join(folder.path, "locked");
    await mkdir(locked);
    await chmod(locked, 0o500);
    const refused = await failure(train(model, { steps: 1, horizon: 1 }, { checkpoints: join(locked, "run") }));
    expect(refused.code).to.equal("ERR_MEMFORMER_IO");
  });

  it("says that a file system is read-only, whatever is to be made in it", async function () {
    const disk = join(folder.path, "read-only");
    await mkdir(disk);
    if (spawnSync("mount", ["-t", "tmpfs", "-o", "ro", "tmpfs", disk]).status !== 0) {
      this.test!.title += " (needs the right to mount)";
      this.skip();
    }
    try {
      await using model = await runModel();
      const tokenizer = await openTokenizer("bytes"),
        inputs = join(folder.path, "text.txt");
      await writeFile(inputs, "some text\n".repeat(40));
      const works: Record<string, () => Promise<unknown>> = {
        checkpoints: async () => train(model, { steps: 1, horizon: 1 }, { checkpoints: join(disk, "a", "b") }),
        model: async () => model.save(join(disk, "a", "model")),
        log: async () => RunLog.open(join(disk, "a", "log")),
        corpus: async () => prepareCorpus({ inputs, tokenizer, out: join(disk, "a", "data") }),
      };
      for (const [what, work] of Object.entries(works)) {
        const error = await failure(work());
        expect(error.code, what).to.equal("ERR_MEMFORMER_IO");
        expect(error.message, what).to.include("EROFS");
      }
    } finally {
      spawnSync("umount", [disk]);
    }
  });

  it("makes folders below one another, also when another process does at the same time", async () => {
    const deep = join(folder.path, "a", "b", "c");
    await Promise.all(Array.from({ length: 8 }, async () => makeFolder(deep)));
    makeFolderSync(join(folder.path, "x", "y"));
    makeFolderSync(deep);
    expect(await readdir(folder.path)).to.deep.equal(["a", "x"]);
    await writeFile(join(folder.path, "file"), "");
    expect((await failure(makeFolder(join(folder.path, "file", "d")))).code).to.equal("ENOTDIR");
    expect((await failure(makeFolder(join(folder.path, "file")))).code).to.equal("EEXIST");
    expect((await failure(makeFolder("/proc/none/at/all"))).code).to.equal("ENOENT");
  });

  it("rejects with IO when the disk fills up, the checkpoint before intact, nothing partial left", async function () {
    const disk = join(folder.path, "disk");
    await mkdir(disk);
    await using model = await runModel();
    // Room for one checkpoint (weights, two moments) and half of another.
    const size = Math.ceil((3 * 4 * model.parameterCount * 1.5) / 1024) + 200;
    if (spawnSync("mount", ["-t", "tmpfs", "-o", `size=${size}k`, "tmpfs", disk]).status !== 0) {
      this.test!.title += " (needs the right to mount a small disk)";
      this.skip();
    }
    try {
      const trainer = new Trainer(model, { steps: 3, horizon: 1, saveEvery: 1 }),
        seen: number[] = [];
      const work = async (): Promise<void> => {
        for await (const { step } of trainer.run(task(), { checkpoints: disk })) seen.push(step);
      };
      const error = await failure(work());
      expect(error.code, error.stack).to.equal("ERR_MEMFORMER_IO");
      expect(error.message).to.match(/disk|space/i);
      const store = new CheckpointStore(disk),
        last = (await store.last())!;
      await verify(last);
      expect((await readdir(disk)).filter((name) => name.includes("partial"))).to.deep.equal([]);
      const [before] = await contents(last, ["model.safetensors"]);
      await using again = await runModel({ seed: 5 });
      await train(again, { steps: seen.length, horizon: 1 }, { checkpoints: disk, resume: true });
      await again.save(join(folder.path, "saved"));
      expect(await contents(join(folder.path, "saved"), ["model.safetensors"])).to.deep.equal([before]);
    } finally {
      spawnSync("umount", [disk]);
    }
  });
});
