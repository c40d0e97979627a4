/** The scripts are plain Node and use the compiled library; this compiles it where that has not happened yet. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../", import.meta.url));

/** Imports `dist/<path>`, after `tsc` if `dist/` is missing. Ends the process with a sentence if it cannot be made. */
export async function fromDist(path) {
  const file = new URL(`../dist/${path}`, import.meta.url);
  if (!existsSync(file)) compile();
  return await import(file.href);
}

function compile() {
  let compiler;
  try {
    compiler = createRequire(import.meta.url).resolve("typescript/bin/tsc");
  } catch {
    fail("dist/ is missing and TypeScript, which makes it, is not installed. Run `npm install` in the clone first.");
  }
  for (const args of [[compiler, "-p", "tsconfig.build.json"], ["scripts/copy-page.mjs"]]) {
    const run = spawnSync(process.execPath, args, { cwd: root, stdio: ["ignore", 2, 2] });
    if (run.status !== 0) fail("TypeScript did not compile; see above.");
  }
}

/** Prints a sentence and ends with exit code 1. */
export function fail(sentence) {
  console.error(sentence);
  process.exit(1);
}

/** Runs `work`; a failure that memformer explains is printed as its explanation, without a stack. */
export async function main(work) {
  try {
    await work();
  } catch (error) {
    fail(String(error?.code).startsWith("ERR_MEMFORMER_") ? `${error.code}: ${error.message}` : error?.stack);
  }
}
