import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { configureRuntime, type MemformerError } from "../lib/index.ts";
import type { DeviceName } from "../lib/native/cuda.ts";
import { cacheFolder, recordName } from "../lib/toolchain/libtorch/cache.ts";
import { resolveLibtorch } from "../lib/toolchain/libtorch/resolve.ts";
import { scratchFolder } from "./support/fake-libtorch.ts";
import { whyNoGpu } from "./support/gpu.ts";
import { tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";

/** What making a model there fails with. */
/** What a model on this device is refused with. */
async function refusal(device: string): Promise<MemformerError> {
  return failure(tinyModel({ device: device as DeviceName }).then(async (model) => model.dispose()));
}

describe("a model's device", () => {
  it("is refused when it is no device's name", async () => {
    for (const device of ["gpu", "cuda:x", "cuda:", "cuda:-1", "CUDA", ""]) {
      const { code, message } = await refusal(device);
      expect(code, device).to.equal("ERR_MEMFORMER_CONFIG");
      expect(message).to.equal(`device must be "auto", "cpu", "cuda" or "cuda:N", got "${device}"`);
    }
  });

  it("is the CPU when that is asked for", async () => {
    await using model = await tinyModel({ device: "cpu" });
    expect(model.device).to.equal("cpu");
  });

  it("must be a GPU for float16", async () => {
    const error = await tinyModel({ device: "cpu", precision: "float16" }).catch(
      (caught: unknown) => caught as Error & { code: string },
    );
    expect(error).to.include({
      code: "ERR_MEMFORMER_CONFIG",
      message: 'model: precision "float16" needs a GPU, and this is the CPU; "bfloat16" is for both',
    });
  });

  it("is by default what there is", async () => {
    await using model = await tinyModel();
    const expected = whyNoGpu() === undefined ? "cuda:0" : "cpu";
    expect(model.device).to.equal(expected);
    expect(configureRuntime().device).to.equal(expected);
  });

  it("cannot be a GPU where LibTorch is for the CPU", async function () {
    if (resolveLibtorch().variant !== "cpu") this.skip();
    for (const device of ["cuda", "cuda:0", "cuda:7"]) {
      const { code, message } = await refusal(device);
      expect(code).to.equal("ERR_MEMFORMER_NO_CUDA");
      expect(message).to.match(
        /^device "cuda" is not available: this LibTorch is for the CPU\.\n {2}looked at {2}LibTorch {2}2\.\d+\.\d+ for the CPU/,
      );
      expect(message)
        .to.match(/ 1\. fetch a LibTorch with CUDA once: +npx memformer setup --variant cu\d+\n/)
        .and.match(/ 3\. or run on the CPU: /);
    }
  });

  it("cannot be a GPU that is not there", async function () {
    if (whyNoGpu() !== undefined) this.skip();
    const { code, message } = await refusal("cuda:99");
    expect(code).to.equal("ERR_MEMFORMER_NO_CUDA");
    expect(message).to.match(/^there is no device cuda:99: this machine has \d+ \(.+\)$/);
  });

  describe("beside a driver", () => {
    let folder: string, env: NodeJS.ProcessEnv;
    before(function () {
      folder = scratchFolder();
      env = {
        ...process.env,
        MEMFORMER_LIBTORCH: "",
        MEMFORMER_VARIANT: "",
        LD_LIBRARY_PATH: folder,
        XDG_CACHE_HOME: join(folder, "cache"),
      };
      // A cache with the LibTorch of these tests alone: beside a driver, one with CUDA would be taken first.
      const { version, variant, root } = resolveLibtorch(),
        cached = join(cacheFolder(env), `${version}-${variant}`);
      mkdirSync(cached, { recursive: true });
      symlinkSync(root, join(cached, "torch"));
      writeFileSync(join(cached, recordName), "{}");
      // As much of a driver as its version: 12.4.
      writeFileSync(join(folder, "driver.c"), "int cuDriverGetVersion(int* version) { *version = 12040; return 0; }\n");
      const { error } = spawnSync("cc", [
        "-shared",
        "-fPIC",
        "-o",
        join(folder, "libcuda.so.1"),
        join(folder, "driver.c"),
      ]);
      if (error !== undefined) this.skip();
    });
    after(() => {
      rmSync(folder, { recursive: true, force: true });
    });

    /** What a process prints that makes a model on `device`. */
    function making(device: string): string {
      const program = `import(${JSON.stringify(new URL("../lib/index.ts", import.meta.url).href)}).then(({ Memformer }) =>
        Memformer.create({ preset: "tiny", device: "${device}" })).then((model) => console.log(model.device), (error) => console.log(error.message))`;
      const { stdout, stderr } = spawnSync(process.execPath, ["--import", "tsx", "-e", program], {
        encoding: "utf8",
        env,
      });
      return `${stdout}${stderr}`;
    }

    it("says which version it serves, and how to get a LibTorch for it", function () {
      if (resolveLibtorch().variant !== "cpu" || whyNoGpu() === undefined) this.skip();
      expect(making("cuda")).to.match(
        /driver +serves CUDA up to 12\.4\n {2}1\. fetch a LibTorch with CUDA once: +npx memformer setup/,
      );
    });

    it("the CPU is taken with a warning where LibTorch is for the CPU", function () {
      if (resolveLibtorch().variant !== "cpu" || whyNoGpu() === undefined) this.skip();
      const said = making("auto");
      expect(said)
        .to.match(/^cpu\n/)
        .and.match(/\[ERR_MEMFORMER_NO_CUDA\] Warning: device "auto" is the CPU: this LibTorch is for the CPU;/);
    });
  });
});
