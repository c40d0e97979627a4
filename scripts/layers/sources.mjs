/** The files of a tree and what they name of one another. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, posix } from "node:path";

/** Paths below `folder` of `root` whose name fits `pattern`. */
export function* filesUnder(root, folder, pattern) {
  if (!existsSync(join(root, folder))) return;
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = posix.join(folder, entry.name);
    if (entry.isDirectory() && entry.name !== "node_modules") yield* filesUnder(root, path, pattern);
    else if (pattern.test(entry.name)) yield path;
  }
}

/** The text of a file, with its comments blank. A comment behind code stays. */
export function textOf(root, path) {
  const blank = (comment) => comment.replace(/[^\n]/g, " ");
  return readFileSync(join(root, path), "utf8").replace(/^[ \t]*(\/\/.*$|\/\*[^]*?\*\/)/gm, blank);
}

/** Every match of one of `patterns`: the number of the line that the first group is in, and that group. */
export function* matches(text, ...patterns) {
  for (const pattern of patterns) {
    for (const match of text.matchAll(pattern)) {
      const at = match.index + match[0].lastIndexOf(match[1] ?? match[0]);
      yield [text.slice(0, at).split("\n").length, match[1] ?? match[0]];
    }
  }
}

/**
 * One circle of each knot of files that lead to one another, as a list of paths that ends where it began.
 * `edges`: of each path, the paths that it names.
 */
export function circles(edges) {
  const found = [];
  const done = new Set();
  for (const start of [...edges.keys()].sort()) {
    if (done.has(start)) continue;
    const way = shortestWayBack(edges, start);
    if (way === undefined) continue;
    found.push(way);
    for (const path of way) done.add(path);
  }
  return found;
}

function shortestWayBack(edges, start) {
  const from = new Map();
  const queue = [start];
  for (const path of queue) {
    for (const next of edges.get(path) ?? []) {
      if (next === start) {
        const way = [start];
        for (let at = path; at !== undefined; at = from.get(at)) way.unshift(at);
        return way;
      }
      if (from.has(next)) continue;
      from.set(next, path);
      queue.push(next);
    }
  }
  return undefined;
}
