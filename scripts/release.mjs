/**
 * A release, in steps; stops at the first that fails, and nothing leaves this machine without --publish:
 *   node scripts/release.mjs VERSION|major|minor|patch [--dry-run] [--publish] [--prebuilt] [--libtorch DIR]...
 *                            [--licences FILE] [--environment NAME]
 * --dry-run does everything but write the version, tag and publish. --prebuilt takes the binaries that are there.
 * --libtorch names what to compile against; default: every LibTorch of third_party/libtorch.json, from the cache.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import semver from "semver";
import { releaseNotes } from "./changelog.mjs";
import { asText, builtBinaries, environments, report } from "./check-symbols.mjs";
import { fail, fromDist, main, root } from "./dist.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    "dry-run": { type: "boolean", default: false },
    publish: { type: "boolean", default: false },
    prebuilt: { type: "boolean", default: false },
    libtorch: { type: "string", multiple: true },
    licences: { type: "string" },
    environment: { type: "string", default: "manylinux_2_28" },
  },
});
const platform = "packages/libtorch-cpu-linux-x64";
const out = join(root, "out/release");
const current = readJson("package.json").version;
const version = chooseVersion(positionals);
const tag = `v${version}`;
const tarballs = {};

/** The steps, in order; each ends the process with a sentence if it fails. */
const steps = {
  "clean tree": cleanTree,
  "one version": oneVersion,
  changelog: () => console.log(releaseNotes(root, version)),
  binaries: compileAll,
  "strip and symbols": stripAll,
  checks: () => ["typecheck", "lint", "docs", "test"].forEach((name) => run("npm", "run", "--silent", name)),
  "write the version": () => later(`write ${version} into the manifests`, writeVersion),
  "platform package": packPlatform,
  "main package": packMain,
  "installed into an empty project": () => {
    run("node", "scripts/check-package.mjs");
    run("node", "scripts/check-tarballs.mjs", tarballs.main, tarballs.platform);
  },
  tag: tagRelease,
  publish: () =>
    run("node", "scripts/publish.mjs", ...(values.publish ? [] : ["--dry-run"]), tarballs.platform, tarballs.main),
};

await main(async () => {
  if (environments[values.environment] === undefined)
    fail(`--environment: expected ${Object.keys(environments).join(" or ")}.`);
  if (values.publish && values["dry-run"]) fail("--publish and --dry-run exclude each other.");
  if (values.publish && values.environment !== "manylinux_2_28")
    fail("What is published has to be built in manylinux_2_28.");
  for (const [index, [name, step]] of Object.entries(steps).entries()) {
    console.log(`\n== ${index + 1}/${Object.keys(steps).length} ${name}`);
    try {
      await step();
    } catch (error) {
      fail(`${name}: ${error.message}`);
    }
  }
  console.log(
    `\n${tag}: ${values["dry-run"] ? "everything but writing the version, tag and publication is done" : "done"}.`,
  );
});

function chooseVersion([word, ...rest]) {
  if (word === undefined || rest.length > 0)
    fail("Say which version: node scripts/release.mjs X.Y.Z, or major, minor or patch.");
  const chosen = ["major", "minor", "patch"].includes(word) ? semver.inc(current, word) : semver.valid(word);
  if (chosen === null) fail(`"${word}" is no version: expected X.Y.Z, or major, minor or patch.`);
  if (semver.lt(chosen, current)) fail(`${chosen} is older than ${current}, which package.json has.`);
  return chosen;
}

function cleanTree() {
  const changes = git("status", "--porcelain");
  if (changes !== "") fail(`The tree has changes; a release is made of a commit.\n${changes}`);
  console.log(git("log", "-1", "--oneline"));
}

/** The two packages are released together: the main one asks for exactly its own version of the other. */
function oneVersion() {
  const other = readJson(`${platform}/package.json`).version;
  if (other !== current)
    fail(`package.json has ${current}, ${platform}/package.json ${other}: they have to be the same.`);
  const tagged = git("tag", "--list", tag) === "" ? undefined : git("rev-list", "-n", "1", tag);
  if (tagged !== undefined && tagged !== git("rev-parse", "HEAD"))
    fail(`${tag} is there already, on ${tagged.slice(0, 7)}.`);
  console.log(current === version ? version : `${current} -> ${version}`);
}

/** One call a LibTorch: each leaves its binaries in variants/. */
async function compileAll() {
  if (values.prebuilt) return;
  for (const folder of values.libtorch ?? (await pinnedLibtorches()))
    run("node", "scripts/prebuild.mjs", "--libtorch", folder);
}

async function pinnedLibtorches() {
  const { cacheFolder } = await fromDist("toolchain/libtorch/cache.js");
  const pins = Object.entries(readJson("third_party/libtorch.json").pins);
  const absent = pins.filter(([name]) => !existsSync(join(cacheFolder(), name)));
  const lines = absent.map(
    ([, { version: number, variant }]) => `  npx memformer setup --version ${number} --variant ${variant}`,
  );
  if (lines.length > 0) fail(`Not in the cache, or name folders with --libtorch:\n${lines.join("\n")}`);
  return pins.map(([name]) => join(cacheFolder(), name));
}

function stripAll() {
  const files = builtBinaries();
  if (files.length === 0) fail("There are no binaries under variants/ and prebuilds/.");
  for (const file of files) execFileSync("strip", ["--strip-unneeded", file]);
  const entries = report(files, values.environment, { stripped: true });
  console.log(asText(entries));
  if (entries.some(({ complaints }) => complaints.length > 0))
    fail(`Binaries are over the limits of ${values.environment}.`);
}

/** The lock file has the main package's version twice, at its top. */
function writeVersion() {
  for (const [file, times] of [
    ["package.json", 1],
    [`${platform}/package.json`, 1],
    ["package-lock.json", 2],
  ]) {
    let text = readFileSync(join(root, file), "utf8");
    for (let i = 0; i < times; i++) text = text.replace(`"version": "${current}"`, `"version": "${version}"`);
    writeFileSync(join(root, file), text);
  }
}

function packPlatform() {
  const licences = values.licences === undefined ? [] : ["--licences", values.licences];
  run("node", "scripts/build-platform-package.mjs", "--version", version, "--out", out, ...licences);
  tarballs.platform = join(out, `memformer-libtorch-cpu-linux-x64-${version}.tgz`);
}

/**
 * Packed twice: what is published asks for the platform package, which the repository cannot before that is published.
 */
function packMain() {
  const stage = join(out, "stage");
  rmSync(stage, { recursive: true, force: true });
  mkdirSync(stage, { recursive: true });
  // What an earlier compilation left would be packed with the rest.
  rmSync(join(root, "dist"), { recursive: true, force: true });
  run("npm", "run", "--silent", "build:ts");
  run("npm", "pack", "--silent", "--pack-destination", stage);
  run("tar", "-xzf", join(stage, readdirSync(stage)[0]), "-C", stage);
  const file = join(stage, "package/package.json");
  const manifest = JSON.parse(readFileSync(file, "utf8"));
  const optionalDependencies = {
    ...manifest.optionalDependencies,
    [readJson(`${platform}/package.json`).name]: version,
  };
  writeFileSync(file, `${JSON.stringify({ ...manifest, version, optionalDependencies }, null, 2)}\n`);
  run("npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", out, join(stage, "package"));
  tarballs.main = join(out, `memformer-${version}.tgz`);
  rmSync(stage, { recursive: true });
  for (const path of Object.values(tarballs)) console.log(`${path}: ${statSync(path).size} bytes`);
}

function tagRelease() {
  if (git("tag", "--list", tag) !== "") return console.log(`${tag} is there`);
  later(`commit and tag ${tag}`, () => {
    if (current !== version) run("git", "commit", "-qam", `Release ${version}`);
    run("git", "tag", "-a", tag, "-m", `memformer ${version}`);
  });
}

/** Does what changes the repository, or in a dry run says it. */
function later(what, work) {
  if (values["dry-run"]) console.log(`  in a real run: ${what}`);
  else work();
}

function run(command, ...args) {
  console.log(`$ ${command} ${args.join(" ")}`);
  execFileSync(command === "node" ? process.execPath : command, args, {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
  });
}

function git(...args) {
  return execFileSync("git", args, { cwd: root, encoding: "utf8" }).trim();
}

function readJson(path) {
  return JSON.parse(readFileSync(join(root, path), "utf8"));
}
