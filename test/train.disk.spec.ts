import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { chmod, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CheckpointStore, verify } from "../lib/checkpoint/folder.ts";
import { Trainer } from "../lib/index.ts";
import { contents, failure, runModel, task, temporary, train } from "./support/runs.ts";

let folder: Awaited<ReturnType<typeof temporary>>;

describe("training where it cannot write", function () {
  this.timeout(120_000);
  beforeEach(async () => { folder = await temporary(); });
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

  it("rejects with IO when the disk fills up, the checkpoint before intact, nothing partial left", async function () {
    const disk = join(folder.path, "disk");
    await mkdir(disk);
    await using model = await runModel();
    // Room for one checkpoint (weights, two moments) and half of another.
    const size = Math.ceil(3 * 4 * model.size * 1.5 / 1024) + 200;
    if (spawnSync("mount", ["-t", "tmpfs", "-o", `size=${size}k`, "tmpfs", disk]).status !== 0) {
      this.test!.title += " (needs the right to mount a small disk)";
      this.skip();
    }
    try {
      const trainer = new Trainer(model, { steps: 3, horizon: 1, saveEvery: 1 }), seen: number[] = [];
      const work = async (): Promise<void> => {
        for await (const { step } of trainer.run(task(), { checkpoints: disk })) seen.push(step);
      };
      const error = await failure(work());
      expect(error.code, error.stack).to.equal("ERR_MEMFORMER_IO");
      expect(error.message).to.match(/disk|space/i);
      const store = new CheckpointStore(disk), last = (await store.last())!;
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
