/** What `npm pack` puts into the package, and the list in the repository that says what should be in it. */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./dist.mjs";

/** The most a package may weigh, compressed. */
export const mostBytes = 20e6;

const list = join(root, "scripts/packed-files.txt");

/** Packs into `folder`: the tarball's path, its bytes, and the names in it. */
export function pack(folder) {
  const { status, stdout, stderr } = spawnSync(
    "npm",
    ["pack", "--json", "--ignore-scripts", "--pack-destination", folder],
    {
      cwd: root,
      encoding: "utf8",
    },
  );
  if (status !== 0) throw new Error(`npm pack ended with ${status}: ${stderr}`);
  const [packed] = JSON.parse(stdout);
  return {
    path: join(folder, packed.filename),
    bytes: packed.size,
    names: packed.files.map(({ path }) => path).sort(),
  };
}

/** Which binaries there are depends on what they were made for; each kind is listed once. */
const asListed = (name) => name.replace(/^variants\/torch-[\d.]+\//, "variants/torch-*/");
/** The CUDA half is not there in a package made without a CUDA LibTorch. */
const optional = /^variants\/.*\.so$/;

/**
 * Sentences about files that are packed and not in the list, or the other way round. A `*` in the list stands for any
 * word.
 */
export function complaints(names) {
  const patterns = readFileSync(list, "utf8")
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"));
  const expressions = patterns.map(
    (line) => new RegExp(`^${line.replace(/[.+]/g, "\\$&").replaceAll("*", "[\\w.-]+")}$`),
  );
  const unlisted = names.filter((name) => !expressions.some((expression) => expression.test(name)));
  const absent = patterns.filter((line, i) => !optional.test(line) && !names.some((name) => expressions[i].test(name)));
  return [
    ...unlisted.map((name) => `${name} is packed, and not in scripts/packed-files.txt`),
    ...absent.map((line) => `${line} is in scripts/packed-files.txt, and nothing like it is packed`),
  ];
}

/**
 * Writes the list anew: one line a folder and kind of file, so that a new room shows, and a new file in a room does
 * not.
 */
export function writeList(names) {
  const lines = new Set(
    names.map((name) => (name.includes("/") ? asListed(name).replace(/[^/]+?((?:\.d)?\.\w+)$/, "*$1") : name)),
  );
  lines.add("variants/torch-*/prebuilds/linux-x64/*.so");
  const head =
    "# What npm pack may hold, a folder and kind of file a line. Written by: node scripts/check-package.mjs --update\n";
  writeFileSync(list, `${head}${[...lines].sort().join("\n")}\n`);
}
