/**
 * Makes the npm package that brings LibTorch for the CPU, and packs it:
 *   node scripts/build-platform-package.mjs [--libtorch DIR] [--licences WHEEL|DIR] [--version X.Y.Z] [--out DIR]
 * Of a LibTorch (default: the one that is found) goes in what running needs: the libraries `libtorch.so` is linked
 * with, stripped, each a real file under its SONAME, for npm drops links. The licences come from PyTorch's wheel.
 */
import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { complaints, inspectBinary } from "./check-symbols.mjs";
import { fail, fromDist, main, root } from "./dist.mjs";

/** A registry refuses tarballs somewhere above this. */
const largest = 200e6;
/** What is the same in every release: the manifest and the README. */
const template = join(root, "packages/libtorch-cpu-linux-x64");

/** Names of the libraries beside `start` that it is linked with, itself first. */
function linked(lib, start) {
  const found = [start];
  for (const name of found) {
    const { needed } = inspectBinary(join(lib, name));
    found.push(...needed.filter((other) => !found.includes(other) && existsSync(join(lib, other))));
  }
  return found;
}

/** Copies the libraries, stripped, and holds them against the limits of what is published. */
function takeLibraries(lib, target) {
  mkdirSync(target, { recursive: true });
  const names = linked(lib, "libtorch.so");
  for (const name of names) {
    copyFileSync(join(lib, name), join(target, name)); // follows links
    execFileSync("strip", ["--strip-unneeded", join(target, name)]);
  }
  for (const name of names) {
    const facts = inspectBinary(join(target, name));
    const found = complaints(facts, "manylinux_2_28", { stripped: true });
    if (facts.soname !== name) found.push(`calls itself ${facts.soname}`);
    if (found.length > 0) throw new Error(`${name} ${found.join("; ")}.`);
  }
  return names;
}

/** Finds the licences of the LibTorch in `source`: named, or beside it as pip leaves them. */
function licencesOf(source, named) {
  if (named === undefined) {
    const place = readdirSync(dirname(source)).find((name) => /^torch-.*\.dist-info$/.test(name));
    if (place !== undefined) return join(dirname(source), place, "licenses");
    throw new Error(
      `There are no licences beside ${source}. Name PyTorch's wheel, or a folder that holds them: --licences FILE.`,
    );
  }
  if (!existsSync(named)) throw new Error(`--licences ${named}: there is no such file.`);
  return resolve(named);
}

/** PyTorch's own licence to the package's root, those of its parts to licenses/. */
async function takeLicences(source, target) {
  const scratch = mkdtempSync(join(tmpdir(), "memformer-licences-"));
  try {
    if (!statSync(source).isDirectory()) execFileSync("unzip", ["-q", source, "*.dist-info/licenses/*", "-d", scratch]);
    const from = statSync(source).isDirectory() ? source : join(scratch, readdirSync(scratch)[0] ?? "", "licenses");
    if (!existsSync(join(from, "LICENSE"))) throw new Error(`${source} holds no LICENSE.`);
    copyFileSync(join(from, "LICENSE"), join(target, "LICENSE"));
    const parts = join(from, "third_party");
    if (existsSync(parts)) cpSync(parts, join(target, "licenses"), { recursive: true });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Staged in a folder of its own, which goes however it ends. */
async function build() {
  const { values } = parseArgs({
    options: {
      libtorch: { type: "string" },
      licences: { type: "string" },
      version: { type: "string" },
      out: { type: "string", default: "out/release" },
    },
  });
  const { resolveLibtorch } = await fromDist("toolchain/libtorch/resolve.js");
  const libtorch = resolveLibtorch({ libtorch: values.libtorch, variant: "cpu" });
  const licences = licencesOf(libtorch.root, values.licences);
  const out = resolve(root, values.out);
  mkdirSync(out, { recursive: true });
  const stage = mkdtempSync(join(out, ".platform-"));
  try {
    for (const name of ["package.json", "README.md"]) copyFileSync(join(template, name), join(stage, name));
    const names = takeLibraries(join(libtorch.root, "lib"), join(stage, "lib"));
    await takeLicences(licences, stage);
    writeFileSync(join(stage, "build-version"), `${libtorch.version}+cpu\n`);
    const manifest = JSON.parse(readFileSync(join(stage, "package.json"), "utf8"));
    manifest.version = values.version ?? manifest.version;
    writeFileSync(join(stage, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    const packed = execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", out, stage], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [{ filename, size, unpackedSize, entryCount }] = Object.values(JSON.parse(packed));
    console.log(`LibTorch ${libtorch.version} from ${libtorch.source}: ${names.join(" ")}`);
    console.log(`${join(out, filename)}: ${size} bytes packed, ${unpackedSize} unpacked, ${entryCount} files`);
    if (size > largest) throw new Error(`That is more than the ${largest} bytes a registry takes.`);
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
}

await main(async () => {
  await build().catch((error) => fail(error.message));
});
