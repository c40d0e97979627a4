import { expect } from "chai";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { MemformerError } from "../lib/errors.ts";
import { resolveLibtorch, type ResolveOptions } from "../lib/toolchain/libtorch/resolve.ts";
import { fakePython, libtorchFiles, scratchFolder, writeFiles } from "./support/fake-libtorch.ts";
import { thrown } from "./support/failure.ts";

describe("finding LibTorch", () => {
  let folder: string;
  let base: ResolveOptions & { env: NodeJS.ProcessEnv };

  beforeEach(() => {
    folder = scratchFolder();
    base = {
      env: { XDG_CACHE_HOME: join(folder, "cache"), PATH: "/nowhere" },
      systemFolders: [join(folder, "system")],
    };
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const withEnv = (extra: NodeJS.ProcessEnv): ResolveOptions => ({ ...base, env: { ...base.env, ...extra } });
  const cached = (name: string, version = "2.13.0"): string =>
    writeFiles(join(folder, "cache/memformer/libtorch", name), { ...libtorchFiles(version), "memformer.json": "{}" });

  const failure = (options: ResolveOptions): MemformerError => {
    const error = thrown(() => resolveLibtorch(options));
    expect(error).to.be.instanceOf(MemformerError);
    return error;
  };

  it("takes the folder that MEMFORMER_LIBTORCH names, before the cache", () => {
    cached("2.13.0-cpu");
    const root = writeFiles(join(folder, "mine"), libtorchFiles("2.12.1"));
    const found = resolveLibtorch(withEnv({ MEMFORMER_LIBTORCH: root }));
    expect(found).to.include({ root, version: "2.12.1", variant: "cpu", source: `MEMFORMER_LIBTORCH=${root}` });
  });

  it("takes a folder that holds torch/ too", () => {
    writeFiles(join(folder, "site-packages/torch"), libtorchFiles());
    const found = resolveLibtorch({ ...base, libtorch: join(folder, "site-packages") });
    expect(found.root).to.equal(join(folder, "site-packages/torch"));
  });

  it("reads the version of an official zip from build-version", () => {
    const { "version.py": _, ...files } = libtorchFiles();
    writeFiles(join(folder, "libtorch"), { ...files, "build-version": "2.14.0+cpu\n" });
    expect(resolveLibtorch({ ...base, libtorch: folder }).version).to.equal("2.14.0");
  });

  it("asks python3 for the folder of its torch", () => {
    const root = writeFiles(join(folder, "py/torch"), libtorchFiles("2.11.0", "cuda"));
    const env = withEnv({ MEMFORMER_LIBTORCH: "python", PATH: `${fakePython(folder, `echo ${root}`)}:/bin` });
    expect(resolveLibtorch(env)).to.include({ root, version: "2.11.0", variant: "cuda" });
  });

  it("says so when python3 has no torch, or is absent", () => {
    const without = withEnv({ MEMFORMER_LIBTORCH: "python", PATH: `${fakePython(folder, "echo")}:/bin` });
    expect(failure(without).message).to.contain("python3 has no module torch");
    expect(failure(withEnv({ MEMFORMER_LIBTORCH: "python" })).message).to.contain("python3 cannot be started");
  });

  it("prefers the pinned version in the cache, else the newest", () => {
    cached("2.14.0-cpu", "2.14.0");
    cached("2.11.0-cpu", "2.11.0");
    expect(resolveLibtorch(base).version).to.equal("2.14.0");
    cached("2.13.0-cpu");
    expect(resolveLibtorch(base)).to.include({ version: "2.13.0", source: "cache" });
  });

  it("passes over a cached folder without its record: it was not fetched to the end", () => {
    writeFiles(join(folder, "cache/memformer/libtorch/2.13.0-cpu"), libtorchFiles());
    const { attempts } = failure(base).details as { attempts: { place: string; outcome: string }[] };
    expect(attempts.map(({ outcome }) => outcome)).to.include("not fetched, or not to the end");
  });

  it("comes to the system last and tells what it looked at before", () => {
    writeFiles(join(folder, "system"), libtorchFiles());
    const { source, attempts } = resolveLibtorch(base);
    expect(source).to.equal("system");
    expect(attempts.map(({ place }) => place)).to.deep.equal([
      "MEMFORMER_LIBTORCH",
      join(folder, "cache/memformer/libtorch"),
      "@memformer/libtorch-cpu-linux-x64",
      join(folder, "system"),
    ]);
  });

  it("lists every place and its reason, then numbered remedies, when nothing is found", () => {
    const error = failure(base);
    expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_NOT_FOUND");
    expect(error.message).to.match(
      /^memformer \S+ found no LibTorch for \S+\.\n {2}looked at {2}MEMFORMER_LIBTORCH +not set\n/,
    );
    expect(error.message)
      .to.match(/system +does not exist/)
      .and.match(/1\. fetch it once: +npx memformer setup\n/);
  });

  it("refuses a named folder that holds none rather than take another", () => {
    cached("2.13.0-cpu");
    mkdirSync(join(folder, "empty"));
    const error = failure({ ...base, libtorch: join(folder, "empty") });
    expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_NOT_FOUND");
    expect(error.message).to.contain("has no lib/libtorch_cpu.so");
  });

  it("names the landmark that is missing, and takes a LibTorch without headers: it can be loaded", () => {
    const { "version.py": _, ...files } = libtorchFiles();
    const root = writeFiles(join(folder, "half"), files);
    expect(failure({ ...base, libtorch: root }).message).to.contain("has neither version.py nor build-version");
    const { "share/cmake/Torch/TorchConfig.cmake": __, ...bare } = libtorchFiles();
    expect(resolveLibtorch({ ...base, libtorch: writeFiles(join(folder, "bare"), bare) }).compilable).to.equal(false);
    expect(
      resolveLibtorch({ ...base, libtorch: writeFiles(join(folder, "whole"), libtorchFiles()) }).compilable,
    ).to.equal(true);
  });

  it("takes a CUDA build from the cache first where there is a driver, else the CPU's", () => {
    cached("2.13.0-cpu");
    writeFiles(join(folder, "cache/memformer/libtorch/2.14.1-cu130"), {
      ...Object.fromEntries(
        Object.entries(libtorchFiles("2.14.1", "cuda")).map(([path, text]) => [`torch/${path}`, text]),
      ),
      "memformer.json": "{}",
    });
    expect(resolveLibtorch(base)).to.include({ variant: "cpu", version: "2.13.0" });
    const found = resolveLibtorch({ ...base, preferCuda: true });
    expect(found).to.include({
      variant: "cuda",
      version: "2.14.1",
      cuda: "13.0",
      root: join(folder, "cache/memformer/libtorch/2.14.1-cu130/torch"),
    });
  });

  it("takes the variant that MEMFORMER_VARIANT names, a kind or a CUDA version", () => {
    cached("2.13.0-cpu");
    writeFiles(join(folder, "system"), libtorchFiles("2.14.1", "cuda"));
    for (const variant of ["cuda", "cu130"])
      expect(resolveLibtorch(withEnv({ MEMFORMER_VARIANT: variant })).version).to.equal("2.14.1");
    expect(resolveLibtorch(withEnv({ MEMFORMER_VARIANT: "cpu" })).version).to.equal("2.13.0");
    const other = failure(withEnv({ MEMFORMER_VARIANT: "cu128" }));
    expect(other.message).to.contain("found no cu128 LibTorch").and.contain("LibTorch 2.14.1 for cu130");
    expect(other.message).to.contain("npx memformer setup --variant cu128").and.contain("4. or run on the CPU:");
    expect(failure(withEnv({ MEMFORMER_VARIANT: "gpu" }))).to.include({
      code: "ERR_MEMFORMER_CONFIG",
      message: 'MEMFORMER_VARIANT: expected "cpu", "cuda" or a CUDA version such as "cu130", got "gpu"',
    });
  });

  it("passes over what a caller finds unfit, with the reason, but not what was named", () => {
    cached("2.14.0-cpu", "2.14.0");
    cached("2.12.0-cpu", "2.12.0");
    const unfit = ({ version }: { version: string }): string | undefined =>
      version === "2.14.0" ? "no binary" : undefined;
    const { version, attempts } = resolveLibtorch({ ...base, unfit });
    expect(version).to.equal("2.12.0");
    expect(attempts.map(({ outcome }) => outcome)).to.include("no binary");
    const named = join(folder, "cache/memformer/libtorch/2.14.0-cpu");
    expect(resolveLibtorch({ ...base, unfit, libtorch: named }).version).to.equal("2.14.0");
  });

  it("refuses a version outside the supported ones, unless told to try", () => {
    for (const version of ["2.10.9", "2.15.0", "1.13.0", "3.11.0"]) {
      const root = writeFiles(join(folder, version), libtorchFiles(version));
      const error = failure({ ...base, libtorch: root });
      expect(error.code).to.equal("ERR_MEMFORMER_LIBTORCH_MISMATCH");
      expect(error.message).to.contain(`LibTorch ${version} in ${root} is not supported`).and.contain("2.11 to 2.14");
      const tried = resolveLibtorch({ ...withEnv({ MEMFORMER_LIBTORCH_SKIP_VERSION_CHECK: "1" }), libtorch: root });
      expect(tried.version).to.equal(version);
    }
  });

  it("passes over a CPU build when CUDA is asked for, and says what it saw", () => {
    cached("2.13.0-cpu");
    const error = failure({ ...base, variant: "cuda" });
    expect(error.message).to.contain("found no cuda LibTorch").and.contain("LibTorch 2.13.0 for cpu");
  });
});
