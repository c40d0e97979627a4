import { expect } from "chai";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { buildNative, readBuild, staleness } from "../lib/toolchain/build.ts";
import { doctor, isHealthy } from "../lib/native/doctor.ts";
import { resolveLibtorch } from "../lib/toolchain/libtorch/resolve.ts";
import { libtorchFiles, scratchFolder, writeFiles } from "./support/fake-libtorch.ts";
import { failure } from "./support/failure.ts";

describe("memformer build", () => {
  let folder: string;
  let bin: string;
  let libtorch: string;
  let env: NodeJS.ProcessEnv;

  beforeEach(() => {
    folder = scratchFolder();
    bin = join(folder, "bin");
    mkdirSync(bin);
    symlinkSync("/bin/sh", join(bin, "sh"));
    libtorch = writeFiles(join(folder, "libtorch"), libtorchFiles());
    env = { PATH: bin, XDG_CACHE_HOME: join(folder, "cache"), MAKEFLAGS: "-j7", LOG: join(folder, "calls") };
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  function tool(name: string, version: string, script = ""): void {
    const text = `#!/bin/sh\nif [ "$1" = --version ]; then echo "${version}"; exit 0; fi\n${script}\n`;
    writeFileSync(join(bin, name), text);
    chmodSync(join(bin, name), 0o755);
  }

  /** A cmake that notes how it was called; `build` is what it does for `cmake --build`. */
  function fakeTools(build: string): void {
    tool("c++", "c++ (Debian) 12.2.0");
    tool("g++", "g++ (Debian) 12.2.0");
    tool("ninja", "1.11.1");
    const products = `mkdir -p ${join(folder, "out/Release")}; for n in memformer loader; do echo x > ${join(folder, "out/Release")}/$n.node; done`;
    tool(
      "cmake",
      "cmake version 3.25.1",
      `echo "MAKEFLAGS=$MAKEFLAGS $*" >> $LOG\nif [ "$1" = --build ]; then ${build}; ${products}; fi`,
    );
  }
  const build = async (more: object = {}): Promise<{ folder: string; seconds: number }> =>
    await buildNative({ libtorch, out: join(folder, "out"), jobs: 2, env, ...more });

  it("names all missing tools at once and the one line that installs them", async () => {
    tool("cmake", "cmake version 3.16.3");
    const error = await failure(build());
    expect(error.code).to.equal("ERR_MEMFORMER_TOOLS_MISSING");
    expect(error.message).to.contain("CMake >= 3.18").and.contain("g++ >= 10").and.contain("ninja or make");
    expect(error.message).to.match(/sudo apt-get install -y cmake g\+\+ ninja-build$/);
    expect(existsSync(join(folder, "out"))).to.equal(false);
  });

  it("refuses jobs that are not a whole number of at least 1", async () => {
    for (const jobs of [0, 1.5, Number.NaN]) {
      const error = await failure(build({ jobs }));
      expect(error).to.be.instanceOf(RangeError);
      expect([error.code, error.message]).to.deep.equal([
        "ERR_MEMFORMER_CONFIG",
        `jobs: expected a whole number of at least 1, got ${jobs}`,
      ]);
    }
  });

  it("leaves both addons and a record, written last, of what they were made with", async () => {
    fakeTools("true");
    const result = await build();
    expect(result.folder).to.equal(join(folder, "out/Release"));
    const record = readBuild(result.folder);
    expect(record).to.deep.include({
      libtorch: { root: libtorch, version: "2.13.0", variant: "cpu" },
      compiler: "c++ (Debian) 12.2.0",
    });
    const calls = readFileSync(env["LOG"] ?? "", "utf8");
    expect(calls).to.contain(`-DMEMFORMER_LIBTORCH=${libtorch}`).and.contain("--parallel 2");
    expect(calls, "an outer make must not steer the inner one").to.not.contain("-j7");
  });

  it("goes on with one job when the compiler was killed for memory", async () => {
    fakeTools(
      'case "$*" in *"--parallel 2"*) echo "c++: fatal error: Killed signal terminated program cc1plus"; exit 1;; esac',
    );
    const said: unknown[] = [];
    await build({ report: (event: unknown) => said.push(event) });
    expect(said).to.include("The compiler ran out of memory; continuing with one job.");
    expect(readFileSync(env["LOG"] ?? "", "utf8")).to.contain("--parallel 1");
  });

  it("gives the compiler's words when it fails, keeps all of them in build.log, and leaves no record", async () => {
    fakeTools("true");
    await build();
    fakeTools('echo "a.cpp:3:1: error: expected a semicolon"; exit 1');
    const error = await failure(build());
    expect(error.code).to.equal("ERR_MEMFORMER_NATIVE");
    expect(error.message)
      .to.contain("a.cpp:3:1: error: expected a semicolon")
      .and.contain(join(folder, "out/build.log"));
    expect(readBuild(join(folder, "out/Release"))).to.equal(undefined);
  });

  it("forgets what CMake remembers of another LibTorch, and only then", async () => {
    fakeTools("true");
    const cache = join(folder, "out/CMakeCache.txt");
    for (const [root, kept] of [
      [libtorch, true],
      [`${libtorch}-other`, false],
    ] as const) {
      mkdirSync(dirname(cache), { recursive: true });
      writeFileSync(cache, `A:STRING=1\nMEMFORMER_LIBTORCH:PATH=${root}\n`);
      await build();
      expect(existsSync(cache)).to.equal(kept);
    }
  });

  it("is stale without products, for another LibTorch, and after a source changed", async () => {
    const found = resolveLibtorch({ libtorch, env });
    const out = join(folder, "out/Release");
    expect(await staleness(out, found)).to.equal("not built yet");
    fakeTools("true");
    await build();
    expect(await staleness(out, found)).to.equal(undefined);
    expect(await staleness(out, { ...found, version: "2.14.0" })).to.equal(`built for LibTorch 2.13.0 in ${libtorch}`);
    utimesSync(join(out, "build.json"), 0, 0);
    expect(await staleness(out, found)).to.equal("CMakeLists.txt is newer");
    rmSync(join(out, "loader.node"));
    expect(await staleness(out, found)).to.equal("not built yet");
  });

  describe("memformer doctor", () => {
    it("says with one line each what misses, and is unhealthy without LibTorch", () => {
      const rows = doctor(env);
      const row = (name: string): object | undefined => rows.find((candidate) => candidate.name === name);
      expect(row("platform")).to.deep.include({ ok: true, found: "linux-x64" });
      expect(row("glibc")).to.deep.include({ ok: true });
      expect(row("libtorch")).to.deep.include({ ok: false, required: true, remedy: "npx memformer setup" });
      expect(row("cmake")).to.deep.include({ ok: false, required: false, remedy: "sudo apt-get install -y cmake" });
      expect(rows.every(({ remedy }) => remedy === undefined || !remedy.includes("\n"))).to.equal(true);
      expect(isHealthy(rows)).to.equal(false);
    });

    it("sends to build, not to setup, where LibTorch is there and only a binary for it misses", () => {
      writeFiles(join(folder, "cache/memformer/libtorch/2.12.1-cpu"), {
        ...libtorchFiles("2.12.1"),
        "memformer.json": "{}",
      });
      const rows = doctor(env);
      const row = (name: string): object | undefined => rows.find((candidate) => candidate.name === name);
      expect(row("libtorch")).to.include({ ok: true });
      expect(row("addon")).to.include({ ok: false, remedy: "npx memformer build" });
      expect(row("addon"))
        .to.have.property("found")
        .that.matches(/^none for LibTorch 2\.12\.1: /);
    });

    it("finds the LibTorch that is named", () => {
      const rows = doctor({ ...env, MEMFORMER_LIBTORCH: libtorch });
      const found = rows.find(({ name }) => name === "libtorch");
      expect(found).to.deep.include({
        ok: true,
        found: `2.13.0 (cpu) in ${libtorch} [MEMFORMER_LIBTORCH=${libtorch}]`,
      });
    });
  });
});
