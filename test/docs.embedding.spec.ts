import { expect } from "chai";
import { access, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { applyOperator, memoryUsage, synchronize, trimMemory } from "../lib/index.ts";
import { addonOrigin } from "../lib/native/calls.ts";
import { Consumer } from "./support/consumer.ts";
import { nodes } from "./support/nodes.ts";
import { temporary } from "./support/runs.ts";

const root = new URL("../", import.meta.url),
  page = new URL("docs/embedding.md", root);

/** Text without what indentation and line ends differ in. */
const plain = (text: string): string =>
  text
    .trim()
    .split("\n")
    .map((line) => line.trim())
    .join("\n");

describe("docs/embedding.md", () => {
  let text: string;
  before(async () => {
    text = await readFile(page, "utf8");
  });

  it("shows code that is in the examples, to the letter", async () => {
    const folder = new URL("examples/", root),
      names = await readdir(folder, { recursive: true });
    const files = await Promise.all(
      names
        .filter((name) => /\.m?[tj]s$/.test(name))
        .map(async (name) => plain(await readFile(new URL(name, folder), "utf8"))),
    );
    const blocks = [...text.matchAll(/```[tj]s\n([^]*?)```/g)].map(([, block]) => plain(block!));
    expect(blocks).to.have.length(3);
    for (const block of blocks)
      expect(
        files.some((file) => file.includes(block)),
        block,
      ).to.be.true;
  });

  it("links to files that are there", async () => {
    for (const [, target] of text.matchAll(/\]\((?!https?:)([^)#]+)/g)) await access(new URL(target!, page));
  });

  it("names the versions of Node that are pinned", async () => {
    const pins = Object.keys(JSON.parse(await readFile(new URL("third_party/node.json", root), "utf8")) as object);
    for (const version of pins) expect(text).to.include(version.split(".").slice(0, 2).join("."));
  });

  it("is right in that no external buffer is made", async () => {
    const addon = await readFile(join(addonOrigin().folder, "memformer.node"));
    expect(addon.includes("napi_create_external\0")).to.be.true;
    expect(addon.includes("napi_create_external_arraybuffer") || addon.includes("napi_create_external_buffer")).to.be
      .false;
  });

  it("is right in that freed blocks are kept, until they are asked back", async () => {
    applyOperator("aten::zeros", [2 ** 22], "float32").dispose();
    await synchronize();
    expect(memoryUsage().cachedBytes).to.be.at.least(2 ** 24);
    trimMemory();
    expect(memoryUsage().cachedBytes).to.equal(0);
  });
});

for (const { path: node, version } of nodes())
  describe(`examples/worker under Node ${version}`, function () {
    this.timeout(120_000);

    it("trains in a worker and opens what it has saved", async () => {
      const folder = await temporary(),
        project = await Consumer.make();
      const { code, stdout, stderr } = await project.run(node, [
        new URL("examples/worker/main.mjs", root).pathname,
        join(folder.path, "model"),
        "3",
      ]);
      expect(code, stderr).to.equal(0);
      expect(stdout).to.match(/^(step \d: loss [\d.]+\n){3}\d+ parameters in /);
      await project.remove();
      await folder.remove();
    });
  });
