import { expect } from "chai";
import { build } from "esbuild";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { cacheFolder } from "../lib/toolchain/libtorch/cache.ts";
import { resolveLibtorch } from "../lib/toolchain/libtorch/resolve.ts";
import { Consumer, type Output } from "./support/consumer.ts";
import { nodes } from "./support/nodes.ts";

// What docs/embedding.md says of bundlers and of Node's restrictions.
const program = `
  import { Memformer } from "memformer";
  export const size = async () => {
    const model = await Memformer.create({ preset: "tiny", threads: 1 });
    const { parameterCount: size } = model;
    await model.dispose();
    return size;
  };
  size().then((size) => console.log("parameters:", size), (error) => console.log(error.code, error.cause?.code));`;

describe("a bundle", function () {
  this.timeout(120_000);
  let project: Consumer;
  before(async () => {
    project = await Consumer.make();
    await project.write("package.json", '{ "private": true }');
    await project.write("main.mjs", program);
  });
  after(async () => project.remove());
  const bundled = async (format: "esm" | "cjs", external: string[]): Promise<Output> => {
    const outfile = join(project.folder, `bundle.${format === "esm" ? "mjs" : "cjs"}`);
    await build({
      entryPoints: [join(project.folder, "main.mjs")],
      bundle: true,
      platform: "node",
      format,
      outfile,
      external,
      logLevel: "silent",
    });
    return project.run(process.execPath, [outfile]);
  };

  for (const format of ["esm", "cjs"] as const) {
    it(`in the format ${format} works where memformer is external`, async () => {
      const { stdout, stderr } = await bundled(format, ["memformer"]);
      expect(stdout, stderr).to.match(/^parameters: \d+\n$/);
    });

    it(`in the format ${format} does not find the addon where memformer is inside`, async () => {
      const { stdout, stderr } = await bundled(format, []);
      expect(stdout + stderr)
        .to.match(/ENOENT|ERR_INVALID_URL|LOAD_FAILED/)
        .and.not.match(/parameters/);
    });
  }
});

for (const { path: node, version } of nodes())
  describe(`Node ${version} with restrictions`, function () {
    this.timeout(120_000);
    let project: Consumer;
    before(async () => {
      project = await Consumer.make();
      await project.write("package.json", '{ "private": true }'); // else early ones of Node 20 look for it above, and are refused
      await project.write("main.mjs", program);
    });
    after(async () => project.remove());
    const permission =
      version.startsWith("v20.") || version.startsWith("v22.12.") ? "--experimental-permission" : "--permission";
    const run = async (...flags: string[]): Promise<string> => (await project.run(node, [...flags, "main.mjs"])).stdout;

    it("says that addons are disabled, by --no-addons or by the permission model", async () => {
      expect(await run("--no-addons")).to.equal("ERR_MEMFORMER_LOAD_FAILED ERR_DLOPEN_DISABLED\n");
      expect(await run(permission, "--allow-fs-read=*")).to.equal("ERR_MEMFORMER_LOAD_FAILED ERR_DLOPEN_DISABLED\n");
    });

    it("runs under the permission model with addons allowed, and the folders it reads", async () => {
      const root = fileURLToPath(new URL("../", import.meta.url));
      const folders = [project.folder, root, resolveLibtorch().root, dirname(cacheFolder())].map(
        (folder) => `--allow-fs-read=${resolve(folder)}/`,
      );
      expect(await run(permission, "--allow-addons", ...folders)).to.match(/^parameters: \d+\n$/);
    });
  });
