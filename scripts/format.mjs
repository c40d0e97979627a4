/**
 * `node scripts/format.mjs [--check] [FILES]`: rewrites every file that git knows (or FILES) as the formatters write
 * it. `--check` rewrites nothing; it names each file that would change and exits with 1.
 *
 * prettier formats TypeScript, JavaScript, JSON, YAML and Markdown; clang-format C++ and CUDA; ruff Python; shfmt
 * shell. All four come from npm, so package-lock.json pins their versions. prettier breaks no comment:
 * reflow-comments.mjs does.
 */
import { PositionEncoding, Workspace } from "@astral-sh/ruff-wasm-nodejs";
import { format as clangFormat } from "@wasm-fmt/clang-format";
import { format as shfmt } from "@wasm-fmt/shfmt";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, extname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import * as prettier from "prettier";
import { reflowComments } from "./reflow-comments.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const width = Number(/^max_line_length *= *(\d+)/m.exec(readFileSync(join(root, ".editorconfig"), "utf8"))[1]);
const { values, positionals } = parseArgs({ options: { check: { type: "boolean" } }, allowPositionals: true });

const clangStyle = readFileSync(join(root, ".clang-format"), "utf8");
/** @param {string} text @param {string} path */
const cpp = (text, path) => clangFormat(text, path.replace(/\.cuh?$/, ".cpp"), clangStyle);
const python = new Workspace(
  { "line-length": width, format: { "docstring-code-format": true } },
  PositionEncoding.Utf16,
);
const shell = (text, path) => shfmt(text, path, { indent: 2 });

/** The formatter of a kind of file. A file of any other kind stays as it is. */
const formatters = {
  ...Object.fromEntries([".cpp", ".h", ".cu", ".cuh"].map((kind) => [kind, cpp])),
  ...Object.fromEntries([".ts", ".mts", ".js", ".mjs", ".json", ".yml", ".md"].map((kind) => [kind, withPrettier])),
  ".py": (text) => python.format(text),
  ".sh": shell,
};
const byPath = { ".ci/run": shell, ".mocharc.json": withPrettier };

async function withPrettier(text, path) {
  const { ignored } = await prettier.getFileInfo(path, { ignorePath: join(root, ".prettierignore") });
  if (ignored) return text;
  const config = await prettier.resolveConfig(join(root, basename(path)), { editorconfig: true });
  const formatted = await prettier.format(text, { ...config, filepath: path });
  if (/\.m?[jt]s$/.test(path)) return reflowComments(formatted, width);
  return path.endsWith(".md") ? compactWideTables(formatted) : formatted;
}

/** Tables that would be wider than a line if their columns were aligned, without the blanks that align them. */
function compactWideTables(text) {
  return text.replace(/^(\|.*\n)+/gm, (table) =>
    table.split("\n").some((line) => line.length > width)
      ? table.replace(/ +\|/g, " |").replace(/^\|[ |:-]+$/gm, (ruler) => ruler.replace(/-{3,}/g, "---"))
      : table,
  );
}

/** Files that git tracks, and new ones that it does not ignore. */
function knownFiles() {
  const options = { cwd: root, encoding: "utf8", maxBuffer: 2 ** 26 };
  const present = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], options);
  const deleted = new Set(execFileSync("git", ["ls-files", "--deleted", "-z"], options).split("\0"));
  return present.split("\0").filter((path) => path !== "" && !deleted.has(path));
}

const paths = positionals.length > 0 ? positionals.map((path) => relative(root, resolve(path))) : knownFiles();
let failed = false;
const report = (sentence) => {
  console.error(sentence);
  failed = true;
};

for (const path of paths) {
  const format = byPath[path] ?? formatters[extname(path)];
  if (format === undefined) continue;
  const absolute = join(root, path);
  const before = readFileSync(absolute, "utf8");
  let after;
  try {
    after = await format(before, absolute);
  } catch (error) {
    report(`${path}: cannot be formatted: ${error instanceof Error ? error.message : error}`);
    continue;
  }
  if (after !== before) {
    if (values.check) report(`${path}: is not formatted (npm run format)`);
    else writeFileSync(absolute, after);
  }
}
if (failed) process.exitCode = 1;
else if (values.check) console.log("format: every file is as the formatters write it");
