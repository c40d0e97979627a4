import { expect } from "chai";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { modelSchema } from "../lib/model/config.ts";
import { trainSchema } from "../lib/train/config.ts";
import { Bench } from "./support/run-cli.ts";

const page = readFileSync(new URL("../docs/migration.md", import.meta.url), "utf8");

describe("docs/migration.md", () => {
  it("names options that are there", () => {
    const rows = page
      .split("\n")
      .filter((line) => /^\| (?!-)/.test(line))
      .map((line) => line.split("|")[2]!);
    const names = rows.flatMap((cell) => [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name!));
    expect(names).to.have.length.above(25);
    expect([...Object.keys(modelSchema.shape), ...Object.keys(trainSchema.shape), "lanes"]).to.include.members(names);
    const values = rows.flatMap((cell) => [...cell.matchAll(/`(\w+)`: `"([\w-]+)"`/g)]);
    for (const [, option, value] of values) {
      const schema = option === "method" ? trainSchema : modelSchema;
      expect(
        schema.safeParse({ ...(option === "method" ? { steps: 1 } : {}), [option!]: value }).success,
        `${option}: ${value}`,
      ).to.equal(true);
    }
  });

  it("has a loop that runs as it stands", async () => {
    const bench = new Bench();
    try {
      const [, example] = /```ts\n([^]*?)```/.exec(page)!;
      const program = bench.path("example.ts");
      await writeFile(
        program,
        example!.replace('"memformer"', JSON.stringify(fileURLToPath(new URL("../lib/index.ts", import.meta.url)))),
      );
      await writeFile(bench.path("package.json"), '{"type": "module"}');
      const { code, stdout, stderr } = await bench.node(program).ended;
      expect(code, stderr).to.equal(0);
      expect(stdout).to.match(/^1 \d+\.\d+\n2 \d+\.\d+\n3 \d+\.\d+\n$/);
    } finally {
      bench.remove();
    }
  });
});
