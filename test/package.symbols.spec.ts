import { expect } from "chai";
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadAddon } from "../lib/native/load.ts";
import { scratchFolder, writeFiles } from "./support/fake-libtorch.ts";

const script = fileURLToPath(new URL("../scripts/check-symbols.mjs", import.meta.url));

interface Entry {
  readonly bytes: number;
  readonly stripped: boolean;
  readonly versions: Record<string, string | undefined>;
  readonly needed: string[];
  readonly rpath?: string;
  readonly complaints: string[];
}

describe("the symbol check", () => {
  let folder: string;
  beforeEach(() => (folder = scratchFolder()));
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  /** Compiles a shared object named `name`, stripped unless told otherwise. */
  function compile(name: string, source: string, ...flags: string[]): string {
    writeFiles(folder, { "source.c": source });
    const file = join(folder, name);
    execFileSync("cc", [
      "-shared",
      "-fPIC",
      "-s",
      "-Wl,--disable-new-dtags",
      join(folder, "source.c"),
      "-o",
      file,
      ...flags,
    ]);
    return file;
  }

  function check(...args: string[]): { status: number | null; entries: Entry[]; stderr: string } {
    const run = spawnSync(process.execPath, [script, "--json", ...args], { encoding: "utf8" });
    return {
      status: run.status,
      entries: run.stdout === "" ? [] : (JSON.parse(run.stdout) as Entry[]),
      stderr: run.stderr,
    };
  }

  it("finds the addon that was built here within the limits of Debian 12", () => {
    const { folder: built } = loadAddon();
    const { status, entries, stderr } = check(
      "--environment",
      "debian-12",
      join(built, "memformer.node"),
      join(built, "loader.node"),
    );
    expect(status, stderr + JSON.stringify(entries)).to.equal(0);
    expect(entries[0]!.needed).to.include.members(["libtorch_cpu.so", "libc10.so"]);
    expect(entries[0]!.versions["GLIBC"]).to.match(/^2\.\d+/);
    expect(entries[0]!.rpath).to.equal("$ORIGIN:$ORIGIN/lib");
  });

  it("refuses a folder of the builder in an RPATH or RUNPATH", () => {
    const [good, old, recent] = ["$ORIGIN/lib", "/opt/builder/lib", "$ORIGINAL:/opt/b"];
    expect(check(compile("loader.node", "int x;", `-Wl,-rpath,${good}`)).entries[0]!.complaints).to.deep.equal([]);
    const { status, entries } = check(compile("loader.node", "int x;", `-Wl,-rpath,${good}:${old}`));
    expect(status).to.equal(1);
    expect(entries[0]!.complaints).to.deep.equal([`has ${old} in its RPATH, where only $ORIGIN belongs`]);
    const other = check(compile("loader.node", "int x;", "-Wl,--enable-new-dtags", `-Wl,-rpath,${recent}`));
    expect(other.entries[0]!.complaints).to.deep.equal([
      "has $ORIGINAL and /opt/b in its RUNPATH, where only $ORIGIN belongs",
    ]);
  });

  it("refuses a library that a user's machine need not have", () => {
    const foreign = compile("libforeign.so", "int foreign(void) { return 1; }", "-Wl,-soname,libforeign.so");
    const source = "int foreign(void); int use(void) { return foreign(); }";
    const { status, entries } = check(compile("memformer.node", source, foreign));
    expect(status).to.equal(1);
    expect(entries[0]!.complaints).to.deep.equal([
      "is linked with libforeign.so, which a user's machine need not have",
    ]);
    // LibTorch's own libraries stand side by side.
    expect(check(compile("libshm.so", source, foreign)).entries[0]!.complaints).to.deep.equal([]);
  });

  it("holds LibTorch's libraries back from the loader, and CUDA's from the addon", () => {
    const empty = compile("libc10_cuda.so", "int cuda(void) { return 1; }", "-Wl,-soname,libc10_cuda.so");
    const source = "int cuda(void); int use(void) { return cuda(); }";
    const named = (name: string): number => check(compile(name, source, empty)).entries[0]!.complaints.length;
    expect([named("loader.node"), named("memformer.node"), named("libmemformer_cuda.so")]).to.deep.equal([1, 1, 0]);
  });

  it("compares the newest needed version by number", () => {
    const source = 'void* dlopen(const char*, int); void* use(void) { return dlopen("x", 2); }';
    const file = compile("loader.node", source);
    const [{ versions, complaints }] = check(file).entries as [Entry];
    // What dlopen binds to is the C library's of this machine.
    const [, minor] = versions["GLIBC"]!.split(".").map(Number);
    const sentence = `needs GLIBC_${versions["GLIBC"]}; manylinux_2_28 has at most GLIBC_2.28`;
    expect(complaints).to.deep.equal(minor! > 28 ? [sentence] : []);
    // 2.4 is older than 2.28.
    const older = compile(
      "loader.node",
      "void __stack_chk_fail(void); void use(void) { __stack_chk_fail(); }",
      "-nostdlib",
      "-lc",
    );
    expect(check(older).entries[0]).to.deep.include({ complaints: [], versions: { GLIBC: "2.4" } });
  });

  it("tells what is not stripped, and refuses it when asked to", () => {
    const source = join(folder, "source.c");
    const file = compile("loader.node", "static int hidden(void) { return 1; } int use(void) { return hidden(); }");
    expect(check("--stripped", file).status).to.equal(0);
    execFileSync("cc", ["-shared", "-fPIC", source, "-o", file]);
    expect(check(file)).to.deep.include({ status: 0 });
    const { status, entries } = check("--stripped", file);
    expect([status, entries[0]!.stripped, entries[0]!.complaints]).to.deep.equal([1, false, ["is not stripped"]]);
  });

  it("refuses what is too large", () => {
    const { entries } = check(compile("loader.node", "char room[1 << 17] = {1};"));
    expect(entries[0]!.complaints)
      .to.have.lengthOf(1)
      .and.to.match(/has \d+ bytes, more than 65536/);
  });

  it("says so when it is given no binary, or an unknown environment", () => {
    const text = join(writeFiles(folder, { "a.node": "text" }), "a.node");
    expect(check(text)).to.deep.include({ status: 1, stderr: `${text} is no shared object of ELF.\n` });
    expect(check("--environment", "debian-13", text).stderr).to.equal(
      "--environment debian-13: expected manylinux_2_28 or debian-12.\n",
    );
  });

  it("looks through variants/ and prebuilds/ by itself", () => {
    const tree = join(folder, "package");
    for (const path of ["scripts", "variants/torch-2.13/prebuilds/linux-x64"])
      mkdirSync(join(tree, path), { recursive: true });
    for (const name of ["check-symbols.mjs", "dist.mjs"])
      copyFileSync(join(script, "..", name), join(tree, "scripts", name));
    const run = (): { status: number | null; stdout: string; stderr: string } =>
      spawnSync(process.execPath, [join(tree, "scripts/check-symbols.mjs")], { encoding: "utf8", cwd: tree });
    expect(run()).to.deep.include({ status: 1, stdout: "" });
    copyFileSync(
      compile("loader.node", "int x;"),
      join(tree, "variants/torch-2.13/prebuilds/linux-x64/memformer.node"),
    );
    expect(run().stdout).to.match(
      /^variants\/torch-2\.13\/prebuilds\/linux-x64\/memformer\.node: \d+ bytes, stripped\n/,
    );
  });
});
