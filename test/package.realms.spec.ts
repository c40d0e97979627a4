import { expect } from "chai";
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

/** What `text` prints in a realm that is not Node's own. */
async function printed(text: string): Promise<unknown[]> {
  const args = [
    "--experimental-vm-modules",
    "--no-warnings",
    path("support/realm.mjs"),
    path("../dist/index.js"),
    text,
  ];
  const { stdout } = await promisify(execFile)(process.execPath, args, { encoding: "utf8" });
  return stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as unknown);
}

describe("memformer in a realm that is not Node's own, as in Jest", function () {
  this.timeout(120_000);

  it("takes arrays of both realms, knows errors of both, and trains", async () => {
    const said = await printed(`
      const say = (...values) => console.log(JSON.stringify(values));
      const code = async (work) => { try { await work(); } catch (error) { return [error instanceof lib.MemformerError, lib.isMemformerError(error), error.code]; } };
      const theirs = structuredClone(Float32Array.of(3, 4));
      say("realms differ:", !(theirs instanceof Float32Array));
      lib.configureRuntime({ threads: 1 });
      say([...await lib.Tensor.from(Float32Array.of(1, 2), [2]).data()], [...await lib.Tensor.from(theirs, [2]).data()]);
      say(await code(() => lib.Memformer.load("/does/not/exist")));
      say(await code(() => lib.tidy(async () => 1)));
      const model = await lib.Memformer.create({ preset: "tiny", vocabulary: 18, bos: 17, segmentLength: 8 });
      const stream = new lib.RecallStream({ lanes: 2, segmentLength: 8, keys: 4, fillers: 12, maxLag: 2 }), steps = [];
      for await (const { step } of new lib.Trainer(model, { steps: 2, horizon: 2 }).run(stream)) steps.push(step);
      say(steps);`);
    expect(said).to.deep.equal([
      ["realms differ:", true],
      [
        [1, 2],
        [3, 4],
      ],
      [[true, true, "ERR_MEMFORMER_IO"]],
      [[true, true, "ERR_MEMFORMER_TIDY_ASYNC"]],
      [[1, 2]],
    ]);
  });
});
