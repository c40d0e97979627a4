/**
 * `node scripts/lint-scripts.mjs`: ruff's check (pyflakes and what of pycodestyle no formatter mends) for Python,
 * shellcheck for shell. ruff comes from npm; shellcheck is the system's (apt-get install shellcheck), and its step is
 * skipped, in words, without it.
 */
import { PositionEncoding, Workspace } from "@astral-sh/ruff-wasm-nodejs";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const list = ["ls-files", "--cached", "--others", "--exclude-standard", "-z", "--"];
const files = (...patterns) =>
  execFileSync("git", [...list, ...patterns], { cwd: root, encoding: "utf8" })
    .split("\0")
    .filter(Boolean);

const ruff = new Workspace(
  { "line-length": 120, lint: { select: ["E4", "E7", "E9", "F"], ignore: ["E731"] } },
  PositionEncoding.Utf16,
);
let failed = false;
const python = files("*.py");
for (const path of python) {
  for (const { code, message, start_location: at } of ruff.check(readFileSync(join(root, path), "utf8"))) {
    console.error(`${path}:${at.row}:${at.column}: ${code} ${message}`);
    failed = true;
  }
}

// SC2317: functions that are called by a name in a variable look unreachable.
const shell = files("*.sh", ".ci/run");
const { error, status } = spawnSync("shellcheck", ["--exclude=SC2317", ...shell], { cwd: root, stdio: "inherit" });
if (error !== undefined) console.log("skipped: shellcheck, which is not installed (apt-get install shellcheck)");
else if (status !== 0) failed = true;

if (failed) process.exitCode = 1;
else console.log(`scripts: nothing to find in ${python.length} Python files, ${shell.length} shell scripts`);
