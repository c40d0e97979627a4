/** The layers of C++ and CUDA: native/. */
import { existsSync } from "node:fs";
import { join, posix } from "node:path";
import { below, operatorEdges } from "./rooms.mjs";
import { circles, filesUnder, matches, textOf } from "./sources.mjs";

const include = /^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]/gm;

/**
 * Calls `offend(path, line, sentence)` for every include, and every operator found by name, that the tables do not
 * allow.
 */
export function checkCpp(root, offend) {
  const paths = [...filesUnder(root, "native", /\.(cpp|h|hpp|cu|cuh)$/)];
  const texts = new Map(paths.map((path) => [path, textOf(root, path)]));
  const operators = { folderOf: definitions(texts), used: new Set() };
  const edges = new Map();
  for (const [path, text] of texts) edges.set(path, checkFile(root, path, text, operators, offend));
  for (const circle of circles(edges)) offend(circle[0], 1, `a circle of includes: ${circle.join(" -> ")}`);
  for (const [from, folders] of Object.entries(operatorEdges)) {
    if (!existsSync(join(root, "native/ops", from))) continue;
    for (const to of folders) {
      if (operators.used.has(`${from} ${to}`)) continue;
      offend("scripts/layers/rooms.mjs", 1, `operator ${from} does not use operator ${to}: take the edge out`);
    }
  }
}

/** Of each operator's name, the folder of native/ops that defines it. */
function definitions(texts) {
  const folderOf = new Map();
  for (const [path, text] of texts) {
    if (!path.startsWith("native/ops/")) continue;
    for (const [, name] of matches(text, /(?:\.def\(|\bdefine<[^;]*?>\(\s*library,)\s*"(\w+)\(/g))
      folderOf.set(name, path.split("/")[2]);
  }
  return folderOf;
}

function checkFile(root, path, text, operators, offend) {
  const [, layer, folder] = path.split("/");
  const isCuda = /\.cuh?$/.test(path);
  const targets = [];
  const edge = (line, to, sentence) => {
    if (to === folder || to === "common") return;
    operators.used.add(`${folder} ${to}`);
    if (!(operatorEdges[folder] ?? []).includes(to)) offend(path, line, sentence);
  };
  if (!(layer in below)) offend(path, 1, "stands in no layer of scripts/layers/rooms.mjs");
  for (const [line, header] of matches(text, include)) {
    if (isCuda && /^(torch|ATen|c10)\//.test(header)) offend(path, line, `a .cu or .cuh may not include ${header}`);
    if (/^(napi|node_api)\.h$/.test(header) && !["napi", "loader"].includes(layer)) {
      offend(path, line, `only native/napi and native/loader may include ${header}`);
    }
    const target = ownHeader(root, path, header);
    if (target === undefined) continue;
    if (existsSync(join(root, "native", target))) targets.push(`native/${target}`);
    const [targetLayer, targetFolder] = target.split("/");
    if (targetLayer !== layer && !(below[layer] ?? []).includes(targetLayer)) {
      offend(path, line, `native/${layer} may not include ${header}: imports go down only`);
    } else if (layer === "ops" && targetLayer === "ops") {
      edge(line, targetFolder, `operator ${folder} may not include operator ${targetFolder}`);
    }
  }
  for (const [line, name] of matches(text, /\b(?:find_op\s*<[^;]*?>\s*\(|Registered\s*<)\s*"memformer::(\w+)"/g)) {
    const to = operators.folderOf.get(name);
    if (to === undefined) offend(path, line, `no operator defines memformer::${name}`);
    else if (layer === "ops") edge(line, to, `operator ${folder} may not call memformer::${name} of operator ${to}`);
    else if (!(below[layer] ?? []).includes("ops"))
      offend(path, line, `native/${layer} may not call memformer::${name}`);
  }
  return targets;
}

/** The path of one of our headers relative to native/, whether it was written so or relative to the file. */
function ownHeader(root, path, header) {
  const beside = posix.join(posix.dirname(path), header);
  if (beside.startsWith("native/") && existsSync(join(root, beside))) return beside.slice("native/".length);
  return header.split("/")[0] in below ? header : undefined;
}
