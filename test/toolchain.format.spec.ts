import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { reflowComments } from "../scripts/reflow-comments.mjs";
import { scratchFolder, writeFiles } from "./support/fake-libtorch.ts";

const script = fileURLToPath(new URL("../scripts/format.mjs", import.meta.url));
const words = (count: number): string => Array.from({ length: count }, (_, index) => `word${index}`).join(" ");

describe("npm run format", () => {
  let folder: string;
  beforeEach(() => (folder = scratchFolder()));
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const format = (...args: string[]) => spawnSync(process.execPath, [script, ...args], { encoding: "utf8" });

  const kinds: [name: string, before: string, after: string][] = [
    ["a.ts", "const a = {b:1}", "const a = { b: 1 };\n"],
    ["a.mjs", "f('x')", 'f("x");\n'],
    ["a.json", '{"a":\n1}', '{ "a": 1 }\n'],
    ["a.yml", "a:   1\n", "a: 1\n"],
    ["a.md", "|a|bcd|\n|-|-|\n|1|2|\n", "| a   | bcd |\n| --- | --- |\n| 1   | 2   |\n"],
    ["a.cpp", "int  f( int a ){return a;}\n", "int f(int a) { return a; }\n"],
    ["a.cuh", "int*  f();\n", "int* f();\n"],
    ["a.py", "x = [1,2]\nf('a')\n", 'x = [1, 2]\nf("a")\n'],
    ["a.sh", "if true; then\n        f\nfi\n", "if true; then\n  f\nfi\n"],
  ];
  for (const [name, before, after] of kinds) {
    it(`finds and mends a file of the kind ${name.slice(1)}`, () => {
      const path = join(writeFiles(folder, { [name]: before }), name);
      const check = format("--check", path);
      expect(check.status).to.equal(1);
      expect(check.stderr).to.match(/ is not formatted \(npm run format\)\n$/);
      expect(readFileSync(path, "utf8"), "--check writes nothing").to.equal(before);
      expect(format(path).status).to.equal(0);
      expect(readFileSync(path, "utf8")).to.equal(after);
      expect(format("--check", path).status).to.equal(0);
    });
  }

  it("names a file that cannot be parsed, and leaves it", () => {
    const path = join(writeFiles(folder, { "a.ts": "const = ;" }), "a.ts");
    const run = format(path);
    expect(run.status).to.equal(1);
    expect(run.stderr).to.match(/a\.ts: cannot be formatted: /);
    expect(readFileSync(path, "utf8")).to.equal("const = ;");
  });

  it("does not align a Markdown table that would be too wide", () => {
    const table = `| a | b |\n| --- | --- |\n| ${words(30)} | c |\n`;
    const path = join(writeFiles(folder, { "a.md": table }), "a.md");
    expect(format("--check", path).status).to.equal(0);
  });
});

describe("comments wider than a line", () => {
  it("move their last words to the next line of the paragraph", () => {
    expect(reflowComments("// aa bb cc\n// dd\n", 8)).to.equal("// aa bb\n// cc dd\n");
  });
  it("become several lines if they were one", () => {
    expect(reflowComments("  /** aa bb cc */\n", 14)).to.equal("  /**\n   * aa bb cc\n   */\n");
  });
  it("leave tags, items and blank lines where they are", () => {
    expect(reflowComments(" * aa bb cc\n * @tag x\n", 9)).to.equal(" * aa bb\n * cc\n * @tag x\n");
    expect(reflowComments(" * - aa bb cc\n *\n * dd\n", 11)).to.equal(" * - aa bb\n *   cc\n *\n * dd\n");
  });
  it("keep `code`, links and words wider than a line whole", () => {
    expect(reflowComments("// aa `bb cc dd` ee\n", 12)).to.equal("// aa\n// `bb cc dd`\n// ee\n");
    expect(reflowComments("// https://example.org/a/very/long/path\n", 12)).to.equal(
      "// https://example.org/a/very/long/path\n",
    );
  });
  it("stay as they are where they fit", () => {
    const text = "// aa\n// bb\nconst x = 1; // a comment behind code, as wide as it is\n";
    expect(reflowComments(text, 20)).to.equal(text);
  });
});
