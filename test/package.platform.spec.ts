import { expect } from "chai";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inspectFolder } from "../lib/toolchain/libtorch/libtorch-folder.ts";
import { scratchFolder, writeFiles } from "./support/fake-libtorch.ts";

const script = fileURLToPath(new URL("../scripts/build-platform-package.mjs", import.meta.url));

describe("the platform package", () => {
  let folder: string, libtorch: string, out: string;
  beforeEach(() => {
    folder = scratchFolder();
    [libtorch, out] = [join(folder, "site/torch"), join(folder, "out")];
    writeFiles(libtorch, {
      "version.py": "__version__ = '2.13.0+cpu'\n",
      "include/torch/all.h": "",
      "share/cmake/Torch/TorchConfig.cmake": "",
    });
    mkdirSync(join(libtorch, "lib"));
    // As PyTorch's: libtorch.so needs libtorch_cpu.so, which needs libc10.so, a link; libtorch_python.so is for Python.
    library("libc10.so", [], "$ORIGIN");
    renameSync(join(libtorch, "lib/libc10.so"), join(libtorch, "lib/libc10.so.1"));
    symlinkSync("libc10.so.1", join(libtorch, "lib/libc10.so"));
    library("libtorch_cpu.so", ["libc10.so"], "$ORIGIN");
    library("libtorch.so", ["libtorch_cpu.so"], "$ORIGIN");
    library("libtorch_python.so", ["libtorch.so"], "$ORIGIN");
    writeFiles(folder, {
      "site/torch-2.13.0.dist-info/licenses/LICENSE": "BSD",
      "site/torch-2.13.0.dist-info/licenses/third_party/sleef/LICENSE.txt": "Boost",
    });
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  function library(name: string, needs: string[], runpath: string): void {
    writeFiles(folder, { "source.c": `int ${name.replace(/\W/g, "_")}(void) { return 1; }` });
    const linked = needs.map((other) => join(libtorch, "lib", other));
    const flags = ["-Wl,--no-as-needed", `-Wl,-soname,${name}`, `-Wl,-rpath,${runpath}`];
    execFileSync("cc", [
      "-shared",
      "-fPIC",
      "-nostdlib",
      join(folder, "source.c"),
      "-o",
      join(libtorch, "lib", name),
      ...flags,
      ...linked,
    ]);
  }
  function build(...args: string[]): { status: number | null; stdout: string; stderr: string } {
    return spawnSync(process.execPath, [script, "--libtorch", libtorch, "--out", out, ...args], { encoding: "utf8" });
  }

  it("holds what running needs and no more: real files, stripped, with their licences", () => {
    const { status, stdout, stderr } = build("--version", "1.2.3");
    expect(status, stderr).to.equal(0);
    expect(stdout).to.match(/memformer-libtorch-cpu-linux-x64-1\.2\.3\.tgz: \d+ bytes packed/);
    execFileSync("tar", ["-xzf", join(out, "memformer-libtorch-cpu-linux-x64-1.2.3.tgz"), "-C", folder]);
    const names = readdirSync(join(folder, "package"), {
      recursive: true,
      withFileTypes: true,
      encoding: "utf8",
    }).filter((entry) => !entry.isDirectory());
    expect(names.every((entry) => entry.isFile())).to.equal(true);
    expect(
      names.map(({ parentPath, name }) => join(parentPath, name).slice(folder.length + "/package/".length)).sort(),
    ).to.deep.equal([
      "LICENSE",
      "README.md",
      "build-version",
      "lib/libc10.so",
      "lib/libtorch.so",
      "lib/libtorch_cpu.so",
      "licenses/sleef/LICENSE.txt",
      "package.json",
    ]);
    const found = inspectFolder(join(folder, "package"));
    expect(found).to.deep.include({ version: "2.13.0", variant: "cpu", compilable: false });
    const manifest = JSON.parse(readFileSync(join(folder, "package/package.json"), "utf8")) as object;
    expect(manifest).to.deep.include({ version: "1.2.3", os: ["linux"], cpu: ["x64"], libc: ["glibc"] });
    expect(
      execFileSync("readelf", ["-SW", join(folder, "package/lib/libc10.so")], { encoding: "utf8" }),
    ).not.to.contain(".symtab");
  });

  it("refuses to be made without licences, and leaves nothing behind", () => {
    rmSync(join(folder, "site/torch-2.13.0.dist-info"), { recursive: true });
    expect(build()).to.deep.include({
      status: 1,
      stderr: `There are no licences beside ${libtorch}. Name PyTorch's wheel, or a folder that holds them: --licences FILE.\n`,
    });
    const absent = build("--licences", join(folder, "absent.whl"));
    expect(absent.stderr).to.equal(`--licences ${join(folder, "absent.whl")}: there is no such file.\n`);
    mkdirSync(join(folder, "empty"));
    expect(build("--licences", join(folder, "empty")).stderr).to.equal(`${join(folder, "empty")} holds no LICENSE.\n`);
    expect(readdirSync(out)).to.deep.equal([]);
  });

  it("refuses libraries that look for others in the builder's folders", () => {
    library("libtorch_cpu.so", ["libc10.so"], "/opt/builder");
    const { status, stderr } = build();
    expect(status).to.equal(1);
    expect(stderr).to.match(/^libtorch_cpu\.so has \/opt\/builder in its RU?N?PATH, where only \$ORIGIN belongs\.\n$/);
    expect(readdirSync(out)).to.deep.equal([]);
  });
});
