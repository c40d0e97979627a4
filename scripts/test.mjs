#!/usr/bin/env node
/**
 * `npm test`: all specs, or the files named, a file at a time in each of a few processes; arguments are mocha's. With a
 * GPU in one process, for that one is the tests' as a whole.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { join } from "node:path";

// test/cuda.operators.spec.ts reads those of native/ops; named as well, another process would run them once more.
const everything = "test/**/*.spec.ts",
  given = process.argv.slice(2),
  named = given.some((argument) => argument.endsWith(".spec.ts"));
// Most specs keep one processor busy, and hold up to 2 GB.
const jobs = existsSync("/dev/nvidia0") ? 1 : Math.min(4, availableParallelism());
const args = [...(jobs > 1 ? ["--parallel", "--jobs", String(jobs)] : []), ...given, ...(named ? [] : [everything])];
const mocha = join(createRequire(import.meta.url).resolve("mocha/package.json"), "../bin/mocha.js");
const { status } = spawnSync(process.execPath, [mocha, ...args], { stdio: "inherit" });
process.exitCode = status ?? 1;
