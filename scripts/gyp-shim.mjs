#!/usr/bin/env node
/**
 * Stands in for node-gyp under prebuildify (`prebuildify --napi --node-gyp scripts/gyp-shim.mjs`), which would fetch
 * headers we do not need. prebuildify takes the first `.node` it finds in build/Release, so the loader goes elsewhere;
 * it takes every `.so` too: the CUDA half.
 */
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { root } from "./dist.mjs";

const debug = process.argv.includes("--debug");
const out = join(root, "build", debug ? "Debug" : "Release");
rmSync(out, { recursive: true, force: true });
const args = [join(root, "scripts/build-native.mjs"), "--out", out, "--loader-out", join(root, "build/loader")];
const run = spawnSync(process.execPath, debug ? [...args, "--debug"] : args, { cwd: root, stdio: "inherit" });
process.exitCode = run.status ?? 1;
