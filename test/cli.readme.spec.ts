import { expect } from "chai";
import { access, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Bench } from "./support/run-cli.ts";

const root = new URL("../", import.meta.url);

describe("the README", () => {
  let bench: Bench, readme: string;
  before(async () => {
    bench = new Bench();
    readme = await readFile(new URL("README.md", root), "utf8");
  });
  after(() => {
    bench.remove();
  });

  it("has an example that runs as it stands", async () => {
    const [, example] = /```ts\n([^]*?)```/.exec(readme)!;
    const program = bench.path("example.ts");
    await writeFile(
      program,
      example!.replace('"memformer"', JSON.stringify(fileURLToPath(new URL("lib/index.ts", root)))),
    );
    await writeFile(bench.path("package.json"), '{"type": "module"}');
    const { code, stdout, stderr } = await bench.node(program).ended;
    expect(code, stderr).to.equal(0);
    const losses = [...stdout.matchAll(/^step (\d+): loss ([\d.]+)$/gm)].map(([, step, loss]) => [
      Number(step),
      Number(loss),
    ]);
    expect(losses.map(([step]) => step)).to.deep.equal([10, 20, 30, 40, 50]);
    expect(losses[4]![1]).to.be.below(losses[0]![1]!);
    expect(stdout).to.match(/\n\d+ bytes hold the session\n$/);
    // And it is short enough to be read.
    expect(
      example!
        .trim()
        .split("\n")
        .filter((line) => line !== "").length,
    ).to.be.at.most(20);
  });

  it("lists every command, and no other", async () => {
    const listed = [...readme.matchAll(/^\| `memformer (\w+)/gm)].map(([, name]) => name);
    const { stdout } = await bench.run("--help");
    const known = [...stdout.slice(stdout.indexOf("Commands:")).matchAll(/^ {2}(\w+) /gm)].map(([, name]) => name);
    expect(listed).to.deep.equal(known.filter((name) => name !== "help"));
  });

  it("links to files that are there", async () => {
    for (const [, target] of readme.matchAll(/\]\((?!https?:)([^)]+)\)/g)) {
      await access(new URL(target!, root));
    }
  });
});
