/** The queue of experiments of a machine with GPUs, here on the CPU: what is brought back, and what is left. */
import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const script = fileURLToPath(new URL("../scripts/gpu-experiments.sh", import.meta.url));

describe("scripts/gpu-experiments.sh", function () {
  this.timeout(120_000);
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "memformer-queue-"));
  });
  after(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  function run(name: string, items: readonly string[], env: NodeJS.ProcessEnv = {}): ReturnType<typeof spawnSync> {
    return spawnSync("bash", [script, ...items], {
      encoding: "utf8",
      env: {
        ...process.env,
        NODE: process.execPath,
        DEVICE: "cpu,cpu", // a process each
        BUDGET: "smoke",
        OUT: join(folder, name, "out"),
        WORK: join(folder, name, "work"),
        ROWS: join(folder, name, "rows"),
        ...env,
      },
    });
  }
  const left = async (name: string): Promise<string> => readFile(join(folder, name, "out", "queue-left.txt"), "utf8");

  it("brings back rows and reports, makes none twice, and goes on after a failure", async () => {
    await writeFile(join(folder, "queue"), "# first what fails\nmnist:1 --budget minutes\n\n  worth # twins\n");
    const first = run("whole", [], { QUEUE: join(folder, "queue") });
    expect(first.status, String(first.stderr)).to.equal(1);
    expect(first.stdout).to.include("needs the images of MNIST").and.include("2 of 2 runs made");
    expect(await left("whole")).to.equal("mnist:1 --budget minutes\n");
    const rows = join(folder, "whole", "out", "worth", "rows.jsonl");
    expect((await readFile(rows, "utf8")).trim().split("\n")).to.have.length(2);
    expect(existsSync(join(folder, "whole", "out", "worth", "report.html"))).to.equal(true);
    // On another machine, the rows that came back.
    await mkdir(join(folder, "again", "rows", "worth"), { recursive: true });
    await copyFile(rows, join(folder, "again", "rows", "worth", "rows.jsonl"));
    const second = run("again", ["worth:5"]);
    expect(second.status, String(second.stderr)).to.equal(0);
    expect(second.stdout).to.include("nothing is left");
    expect(await readFile(join(folder, "again", "out", "worth", "rows.jsonl"), "utf8")).to.equal(
      await readFile(rows, "utf8"),
    );
    expect(await readFile(join(folder, "again", "out", "worth", "log.txt"), "utf8")).to.match(
      /^2 of 2 runs are there/m,
    );
  });

  it("leaves what there is no time for", async () => {
    const { status, stdout } = run("late", ["worth:5", "mrbp"], { MINUTES: "0" });
    expect([status, await left("late")]).to.deep.equal([0, "worth:5\nmrbp\n"]);
    expect(stdout).to.include("left, in");
  });

  for (const item of ["wrth:5", "worth:x"]) {
    it(`refuses ${item} before the first run`, () => {
      const { status, stderr } = run("refused", ["worth", item]);
      expect(status).to.equal(2);
      expect(stderr).to.include(`"${item}" is no item of a queue`).and.include("worth");
      expect(existsSync(join(folder, "refused", "out", "worth"))).to.equal(false);
    });
  }
});
