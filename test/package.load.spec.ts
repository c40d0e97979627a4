/** What loading says when it fails. Each case is a process of its own: a binary that does not fit may end it. */
import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isMemformerError, type MemformerError } from "../lib/errors.ts";
import { findBinary } from "../lib/native/binary.ts";
import { buildFolder } from "../lib/toolchain/build.ts";
import { resolveLibtorch } from "../lib/toolchain/libtorch/resolve.ts";
import { requireMachine } from "../lib/native/load.ts";
import { remediesFor } from "../lib/native/load-remedies.ts";
import { demands, thisMachine, type Machine } from "../lib/native/platform.ts";
import { loadError } from "../lib/toolchain/load-error.ts";
import { libtorchFiles, scratchFolder, writeFiles } from "./support/fake-libtorch.ts";

const root = fileURLToPath(new URL("../", import.meta.url));

interface Failure {
  readonly code: string;
  readonly message: string;
}

/** What loading the addon of the package in `folder` fails with, in a process of its own; undefined if it loads. */
function loading(folder: string, env: NodeJS.ProcessEnv, flags: readonly string[] = []): Failure | undefined {
  const program = `import(${JSON.stringify(`file://${folder}/lib/native/load.ts`)}).then((m) => m.loadAddon()).then(
    () => console.log("{}"), (error) => console.log(JSON.stringify({ code: error.code, message: error.message })))`;
  const { stdout, stderr } = spawnSync(process.execPath, ["--import", "tsx", ...flags, "-e", program], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, MEMFORMER_LIBTORCH: "", MEMFORMER_VARIANT: "", ...env },
  });
  expect(stdout, stderr).to.not.equal("");
  const said = JSON.parse(stdout.trim().split("\n").at(-1)!) as Partial<Failure>;
  return said.code === undefined ? undefined : (said as Failure);
}

describe("loading", function () {
  this.timeout(120_000);
  let folder: string;
  before(() => {
    folder = scratchFolder();
  });
  after(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  it("without LibTorch says what was looked at, and numbers what can be done", function () {
    const failure = loading(root, { XDG_CACHE_HOME: join(folder, "nothing") });
    if (failure === undefined) this.skip(); // a system-wide LibTorch serves
    expect(failure.code).to.equal("ERR_MEMFORMER_LIBTORCH_NOT_FOUND");
    expect(failure.message).to.match(
      /^memformer \S+ found no LibTorch for linux-x64\.\n {2}looked at {2}MEMFORMER_LIBTORCH +not set\n/,
    );
    expect(failure.message).to.match(/\n {2}1\. fetch it once: +npx memformer setup\n/);
    expect(failure.message).to.match(
      /\n {2}more: npx memformer doctor; docs\/troubleshooting\.md#err_memformer_libtorch_not_found$/,
    );
  });

  it("with a LibTorch there is no binary for says which there are", () => {
    const other = writeFiles(join(folder, "other"), libtorchFiles("2.12.1"));
    const failure = loading(root, { MEMFORMER_LIBTORCH: other });
    expect(failure?.code).to.equal("ERR_MEMFORMER_LOAD_FAILED");
    expect(failure?.message).to.match(/^memformer \S+ has no binary for LibTorch 2\.12\.1 \(cpu\) on linux-x64\.\n/);
    expect(failure?.message)
      .to.match(/looked at {2}\S+ +compiled for LibTorch 2\.\d+\.\d+\n/)
      .and.match(/or compile it once for this one: +npx memformer build\n/);
  });

  it("with a damaged LibTorch gives the linker's reason and the way to a whole one", () => {
    const { version } = resolveLibtorch();
    const damaged = writeFiles(join(folder, "damaged"), libtorchFiles(version));
    const failure = loading(root, { MEMFORMER_LIBTORCH: damaged });
    expect(failure?.code).to.equal("ERR_MEMFORMER_LOAD_FAILED");
    expect(failure?.message).to.match(/does not load on linux-x64: \S+libc10\.so: (invalid ELF header|file too short)/);
    expect(failure?.message).to.match(/1\. fetch LibTorch again, whole: +npx memformer setup --force\n/);
  });

  it("beside another copy that is loaded already is refused: two in one process would end it", () => {
    const other = join(folder, "other/memformer.node"),
      { addon } = findBinary(resolveLibtorch()) as { addon: string };
    mkdirSync(join(folder, "other"), { recursive: true });
    cpSync(addon, other);
    const program = `Promise.all([import(${JSON.stringify(`file://${root}/lib/native/load.ts`)}), import("node:module")]).then(([m, { createRequire }]) => {
      m.testLoadLibtorch(${JSON.stringify(resolveLibtorch().root)}, "${resolveLibtorch().variant}");
      createRequire(${JSON.stringify(`${folder}/`)})(${JSON.stringify(other)});
      m.loadAddon();
    }).catch((error) => { console.log(error.code + " " + error.message); })`;
    const { stdout, stderr } = spawnSync(process.execPath, ["--import", "tsx", "-e", program], {
      cwd: root,
      encoding: "utf8",
    });
    expect(stdout, stderr).to.match(
      /^ERR_MEMFORMER_LOAD_FAILED Another copy of memformer is loaded in this process already\.\n/,
    );
    expect(stdout).to.contain(`looked at  ${other}`).and.contain("npm dedupe memformer");
  });

  it("where Node may not load addons says so", () => {
    const failure = loading(root, {}, ["--no-addons"]);
    expect(failure?.code).to.equal("ERR_MEMFORMER_LOAD_FAILED");
    expect(failure?.message).to.contain("1. start Node so that it may load addons:");
  });

  describe("a published binary", () => {
    // A package as it is installed: the library, the pins, and binaries under variants/.
    const libtorch = resolveLibtorch(),
      minor = libtorch.version.split(".", 2).join("."),
      target = `${process.platform}-${process.arch}`;
    let home: string, binaries: string;
    const env = (): NodeJS.ProcessEnv => ({ XDG_CACHE_HOME: join(folder, "cache"), MEMFORMER_LIBTORCH: libtorch.root });

    before(() => {
      home = join(folder, "package");
      binaries = join(home, "variants", `torch-${minor}`, "prebuilds", target);
      for (const name of ["lib", "package.json", "third_party"])
        cpSync(join(root, name), join(home, name), { recursive: true });
      symlinkSync(join(root, "node_modules"), join(home, "node_modules"));
      for (const path of [binaries, join(home, "prebuilds", target)]) mkdirSync(path, { recursive: true });
      cpSync(join(buildFolder(libtorch.variant), "memformer.node"), join(binaries, "memformer.node"));
      cpSync(join(buildFolder(libtorch.variant), "loader.node"), join(home, "prebuilds", target, "loader.node"));
    });

    it("is tried in a child once; the good verdict is kept", () => {
      expect(loading(home, env())).to.equal(undefined);
      expect(existsSync(join(folder, "cache/memformer/probes.json"))).to.equal(true);
      expect(loading(home, env())).to.equal(undefined);
    });

    it("that ends its process does not end this one, and is tried anew next time", () => {
      const whole = join(folder, "whole.node");
      cpSync(join(binaries, "memformer.node"), whole);
      writeFileSync(join(binaries, "memformer.node"), "no machine code");
      const failure = loading(home, env());
      expect(failure?.code).to.equal("ERR_MEMFORMER_LOAD_FAILED");
      expect(failure?.message).to.match(
        /does not load on linux-x64: .*memformer\.node: (invalid ELF header|file too short)/,
      );
      cpSync(whole, join(binaries, "memformer.node"));
      expect(loading(home, env())).to.equal(undefined);
    });

    it("without its loader says what is missing", () => {
      rmSync(join(home, "prebuilds"), { recursive: true });
      expect(loading(home, env())?.message).to.contain("there without its loader");
    });
  });
});

describe("a machine", () => {
  const good: Machine = {
    platform: "linux",
    arch: "x64",
    glibc: "2.36",
    node: "20.19.0",
    napi: 9,
    cpuinfo: "model name : A\nflags : avx2 fma\n",
  };

  function refusal(machine: Partial<Machine>): MemformerError | undefined {
    try {
      requireMachine({ ...good, ...machine });
      return undefined;
    } catch (error) {
      if (isMemformerError(error)) return error as MemformerError;
      throw error;
    }
  }

  it("is this one", () => {
    expect(demands(thisMachine()).filter(({ ok }) => !ok)).to.deep.equal([]);
  });

  it("is refused for another platform, too old a glibc, another C library, an old Node, a processor without AVX2", () => {
    expect(refusal({})).to.equal(undefined);
    expect(refusal({ glibc: "2.28" })).to.equal(undefined);
    const cases: [Partial<Machine>, RegExp][] = [
      [{ platform: "darwin", arch: "arm64" }, /platform {2}darwin-arm64: memformer runs on linux-x64 only/],
      [{ glibc: "2.27" }, /glibc {2}2\.27: PyTorch needs glibc 2\.28/],
      [{ glibc: undefined }, /glibc {2}another C library: .* no Alpine/],
      [{ node: "18.20.0", napi: 8 }, /node {2}18\.20\.0, Node-API 8: install Node 20\.19/],
      [
        { cpuinfo: "model name : Old\nflags : sse4_2 fma\n" },
        /processor {2}Old, without avx2: memformer is compiled for x86-64-v3/,
      ],
    ];
    for (const [machine, pattern] of cases) {
      const error = refusal(machine);
      expect(error?.code).to.equal("ERR_MEMFORMER_UNSUPPORTED_PLATFORM");
      expect(error?.message).to.match(pattern);
    }
  });

  it("is told all that it lacks at once", () => {
    expect(refusal({ glibc: "2.17", napi: 8 })?.message.split("\n")).to.have.length(4);
  });
});

describe("an error of loading", () => {
  it("tells at most four remedies, and the same facts for programs", () => {
    const attempts = [
      { place: "here", outcome: "nothing" },
      { place: "over there", outcome: "nothing either" },
    ];
    const error = loadError(
      "LOAD_FAILED",
      "It failed.",
      attempts,
      ["a", "b", "c", "d", "e"].map((name) => [name, `do ${name}`] as const),
      { details: { more: 1 } },
    );
    expect(error.message.split("\n")).to.deep.equal([
      "It failed.",
      "  looked at  here        nothing",
      "             over there  nothing either",
      "  1. a:  do a",
      "  2. b:  do b",
      "  3. c:  do c",
      "  4. d:  do d",
      "  more: npx memformer doctor; docs/troubleshooting.md#err_memformer_load_failed",
    ]);
    expect(error.details).to.deep.equal({ attempts, more: 1 });
  });

  it("has remedies that fit the linker's words", () => {
    const cuda = {
      root: "/x",
      version: "2.14.1",
      variant: "cuda",
      cuda: "13.0",
      compilable: true,
      source: "cache",
      attempts: [],
    } as const;
    const first = (reason: string): string => remediesFor(reason, cuda)[0]!.join(": ");
    expect(first("libcudnn.so.9: cannot open shared object file: No such file or directory")).to.match(
      /memformer setup --variant cu130 --force$/,
    );
    expect(first("/x/lib/libtorch_cpu.so: cannot allocate memory in static TLS block")).to.contain(
      "LD_PRELOAD=/x/lib/libtorch_cpu.so",
    );
    expect(first("/lib/libc.so.6: version `GLIBC_2.38' not found (required by memformer.node)")).to.contain(
      "npx memformer build",
    );
    expect(first("memformer.node: undefined symbol: _ZN3c105ErrorE")).to.contain("npx memformer build");
    expect(first("libc10.so: failed to map segment from shared object: Operation not permitted")).to.contain("noexec");
    for (const reason of ["undefined symbol: x", "version `GLIBCXX_3.4.32' not found"]) {
      expect(
        remediesFor(reason, cuda).filter(([, line]) => line === "npx memformer build"),
        reason,
      ).to.have.length(1);
    }
  });
});
