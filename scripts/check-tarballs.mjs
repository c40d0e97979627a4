/**
 * The two packages of a release as they would be published:  node scripts/check-tarballs.mjs MAIN PLATFORM [--node
 * BIN]... installs both into an empty project, without install scripts, and there, with an empty cache and nothing else
 * on the PATH, trains two steps under every --node (default: this one), with the LibTorch of the platform package.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { fail, main } from "./dist.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { node: { type: "string", multiple: true } },
});

await main(async () => {
  if (positionals.length !== 2) fail("Name two tarballs: memformer's and its platform package's.");
  const project = mkdtempSync(join(tmpdir(), "memformer-tarballs-"));
  try {
    writeFileSync(join(project, "package.json"), JSON.stringify({ private: true }));
    const tarballs = positionals.map((path) => resolve(path));
    execFileSync("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", ...tarballs], {
      cwd: project,
      stdio: "inherit",
    });
    writeFileSync(join(project, "text.txt"), "A key is shown, and asked for later. ".repeat(500));
    for (const [index, node] of (values.node ?? [process.execPath]).entries()) tryOut(project, node, `run-${index}`);
  } finally {
    rmSync(project, { recursive: true, force: true });
  }
});

function tryOut(project, node, run) {
  const bin = join(project, `bin-${run}`);
  mkdirSync(bin);
  symlinkSync(resolve(node), join(bin, "node"));
  const env = { PATH: bin, HOME: project, XDG_CACHE_HOME: join(project, "cache") };
  const memformer = (...args) => {
    const program = [join(project, "node_modules/memformer/dist/cli/main.js"), ...args];
    return execFileSync(join(bin, "node"), program, {
      cwd: project,
      env,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
    });
  };
  const { rows } = JSON.parse(memformer("doctor", "--json"));
  const libtorch = rows.find(({ name }) => name === "libtorch").found;
  if (!libtorch.includes("@memformer/")) throw new Error(`The platform package was not taken: ${libtorch}`);
  memformer(
    "train",
    "--data",
    "text.txt",
    "--preset",
    "tiny",
    "--lanes",
    "4",
    "--steps",
    "2",
    "--out",
    run,
    "--device",
    "cpu",
  );
  console.log(
    `${execFileSync(join(bin, "node"), ["--version"], { encoding: "utf8" }).trim()} trained with LibTorch ${libtorch}`,
  );
}
