/** The layers of TypeScript: lib/, and examples, bench and test above it. */
import { existsSync } from "node:fs";
import { join, posix } from "node:path";
import { floors, pure } from "./rooms.mjs";
import { circles, filesUnder, matches, textOf } from "./sources.mjs";

const places = floors.flatMap((floor, height) => floor.map((name) => ({ name, height })));
places.sort((a, b) => b.name.length - a.name.length);
const placeOf = (path) => places.find(({ name }) => path === name || (name.endsWith("/") && path.startsWith(name)));

/** Statements that begin a line, and calls; not what a string of a test says. */
const imports = [
  /^[ \t]*(?:import|export)\b[^"'`;]*?\bfrom\s*["']([^"']+)["']/gm,
  /^[ \t]*import\s*["']([^"']+)["']/gm,
  /(?<!["'`])\b(?:import|require)\s*\(\s*["']([^"']+)["']/g,
];

/** Calls `offend(path, line, sentence)` for every import that the tables do not allow. */
export function checkTypeScript(root, offend) {
  const edges = new Map();
  for (const folder of ["lib", "examples", "bench", "test", "native"]) {
    for (const path of filesUnder(root, folder, /\.[cm]?ts$/)) edges.set(path, checkFile(root, path, offend));
  }
  for (const circle of circles(edges)) offend(circle[0], 1, `a circle of imports: ${circle.join(" -> ")}`);
}

function checkFile(root, path, offend) {
  const text = textOf(root, path);
  const place = placeOf(path);
  const targets = [];
  if (place === undefined) offend(path, 1, "stands in no room of scripts/layers/rooms.mjs");
  for (const [line, specifier] of matches(text, ...imports)) {
    if (/\.node$/.test(specifier) && !path.startsWith("lib/native/")) {
      offend(path, line, `only lib/native may load ${specifier}`);
    }
    if (!specifier.startsWith(".")) continue;
    const target = posix.join(posix.dirname(path), specifier);
    if (existsSync(join(root, target))) targets.push(target);
    const sentence = place && refusal(path, place, target, specifier);
    if (sentence !== undefined) offend(path, line, sentence);
  }
  if (!path.startsWith("lib/native/")) {
    for (const [line] of matches(text, /\bprocess\.dlopen\b|\bcreateRequire\b.*\.node\b/g)) {
      offend(path, line, "only lib/native may load an addon");
    }
  }
  return targets;
}

/** Why a file may not import `target`; undefined if it may. */
function refusal(path, place, target, specifier) {
  const inLib = path.startsWith("lib/");
  const there = placeOf(target);
  if (inLib && !target.startsWith("lib/"))
    return target === "package.json" ? undefined : `lib may not import ${specifier}`;
  if (target.startsWith("lib/cli/") && !/^(lib\/cli|test)\//.test(path)) return `only lib/cli may import ${specifier}`;
  const room = pure.find((name) => path.startsWith(name));
  if (room !== undefined && /^lib\/(native|engine)\//.test(target)) {
    return `${room.slice(0, -1)} may not import ${specifier}: it works without the addon`;
  }
  const exported = target === "lib/index.ts" || target === "lib/service/index.ts";
  if (path.startsWith("examples/") && target.startsWith("lib/") && !exported) {
    return `an example imports what a user has, lib/index.ts, not ${specifier}`;
  }
  // scripts/ and what the package packs beside dist/ are on no floor.
  if (there === undefined || there.name === place.name) return undefined;
  if (there.height < place.height) return undefined;
  // Of one room on two floors (lib/model), the test's own support, specs beside operators.
  if (there.height === place.height && /^(test|native)\//.test(path)) return undefined;
  const rooms = `${place.name.replace(/\/$/, "")} may not import ${specifier}`;
  return there.height === place.height
    ? `${rooms}: they stand side by side (scripts/layers/rooms.mjs)`
    : `${rooms}: imports go down only (scripts/layers/rooms.mjs)`;
}
