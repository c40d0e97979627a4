/**
 * Fails when an import goes up. Usage: node scripts/check-layers.mjs [FOLDER]
 *   TypeScript: test, bench, examples -> lib; in lib, only lib/native touches the addon, and nothing imports lib/cli.
 *   C++:        napi -> engine -> nn -> ops -> core; an operator sees only itself, ops/common and core; a .cu nothing
 *   of torch.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), ".."));
const offences = [];

/** What each C++ layer may include, beside its own folder. */
const below = {
  core: [],
  ops: ["core"],
  nn: ["ops", "core"],
  engine: ["nn", "ops", "core"],
  napi: ["engine", "nn", "ops", "core"],
  loader: [],
};
const pureFolders = ["data", "checkpoint", "import", "log"];

function* filesUnder(folder, pattern) {
  if (!existsSync(join(root, folder))) return;
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = posix.join(folder, entry.name);
    if (entry.isDirectory() && entry.name !== "node_modules") yield* filesUnder(path, pattern);
    else if (pattern.test(entry.name)) yield path;
  }
}

/** Every match of `pattern` outside line comments: the line's number and the first group. */
function* matches(path, pattern) {
  const lines = readFileSync(join(root, path), "utf8").split("\n");
  for (const [index, line] of lines.entries()) {
    if (/^\s*(\/\/|\*|\/\*)/.test(line)) continue;
    for (const match of line.matchAll(pattern)) yield [index + 1, match[1]];
  }
}

const offend = (path, line, sentence) => offences.push(`${path}:${line}: ${sentence}`);

function checkTypeScript(path) {
  const imports = /(?:\bfrom\s+|\bimport\s*\(\s*|^\s*import\s+|\brequire\s*\(\s*)["']([^"']+)["']/g;
  const [top, area] = path.split("/");
  for (const [line, specifier] of matches(path, imports)) {
    if (/\.node$/.test(specifier) && !path.startsWith("lib/native/")) {
      offend(path, line, `only lib/native may load ${specifier}`);
    }
    if (!specifier.startsWith(".")) continue;
    const [targetTop, targetArea] = posix.join(posix.dirname(path), specifier).split("/");
    if (top !== "lib") continue;
    if (targetTop !== "lib" && targetTop !== "package.json") offend(path, line, `lib may not import ${specifier}`);
    if (targetArea === "cli" && area !== "cli") offend(path, line, `only lib/cli may import ${specifier}`);
    if (targetArea === "native" && pureFolders.includes(area)) {
      offend(path, line, `lib/${area} may not import ${specifier}: it works without the addon`);
    }
  }
  if (path.startsWith("lib/native/")) return;
  for (const [line] of matches(path, /\bprocess\.dlopen\b|\bcreateRequire\b.*\.node\b/g)) {
    offend(path, line, "only lib/native may load an addon");
  }
}

function checkCpp(path) {
  const [, layer, folder] = path.split("/");
  const isCuda = /\.cuh?$/.test(path);
  for (const [line, header] of matches(path, /^\s*#\s*include\s*["<]([^">]+)[">]/g)) {
    if (isCuda && /^(torch|ATen|c10)\//.test(header)) offend(path, line, `a .cu or .cuh may not include ${header}`);
    if (/^(napi|node_api)\.h$/.test(header) && !["napi", "loader"].includes(layer)) {
      offend(path, line, `only native/napi and native/loader may include ${header}`);
    }
    const target = ownHeader(path, header);
    if (target === undefined) continue;
    const [targetLayer, targetFolder] = target.split("/");
    if (targetLayer !== layer && !(below[layer] ?? []).includes(targetLayer)) {
      offend(path, line, `native/${layer} may not include ${header}: imports go down only`);
    } else if (layer === "ops" && targetLayer === "ops" && ![folder, "common"].includes(targetFolder)) {
      offend(path, line, `operator ${folder} may not include operator ${targetFolder}`);
    }
  }
}

/** The path of one of our headers relative to native/, whether it was written so or relative to the file. */
function ownHeader(path, header) {
  const beside = posix.join(posix.dirname(path), header);
  if (beside.startsWith("native/") && existsSync(join(root, beside))) return beside.slice("native/".length);
  return header.split("/")[0] in below ? header : undefined;
}

for (const folder of ["lib", "test", "bench", "examples", "native"]) {
  for (const path of filesUnder(folder, /\.[cm]?ts$/)) checkTypeScript(path);
}
for (const path of filesUnder("native", /\.(cpp|h|hpp|cu|cuh)$/)) checkCpp(path);
for (const offence of offences) console.error(offence);
if (offences.length > 0) process.exitCode = 1;
else console.log("layers: imports go down only");
