/**
 * Makes the binaries that are published, one folder a LibTorch version, with prebuildify through the one CMake build:
 *   node scripts/prebuild.mjs [--libtorch DIR|python]...      default: the LibTorch that is found
 * leaves variants/torch-<minor>/prebuilds/<platform>-<arch>/{memformer.node, libmemformer_cuda.so} and, shared by all,
 * prebuilds/<platform>-<arch>/loader.node. The CUDA half is there for a LibTorch with CUDA and an nvcc; a binary made
 * with such a LibTorch serves the CPU as well. Everything is stripped.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { fromDist, main, root } from "./dist.mjs";

await main(async () => {
  const { values } = parseArgs({ options: { libtorch: { type: "string", multiple: true } } });
  const { resolveLibtorch } = await fromDist("toolchain/libtorch/resolve.js");
  const { minorVersion } = await fromDist("toolchain/libtorch/pin.js");
  const target = `${process.platform}-${process.arch}`;
  for (const named of values.libtorch ?? [undefined]) {
    const libtorch = resolveLibtorch({ libtorch: named });
    const variant = join("variants", `torch-${minorVersion(libtorch.version)}`);
    const binaries = join(root, variant, "prebuilds", target),
      loader = join(root, "prebuilds", target);
    rmSync(binaries, { recursive: true, force: true });
    const args = ["--napi", "--strip", "--node-gyp", join(root, "scripts/gyp-shim.mjs"), "--out", variant];
    run(join(root, "node_modules/.bin/prebuildify"), args, { ...process.env, MEMFORMER_LIBTORCH: libtorch.root });
    mkdirSync(loader, { recursive: true });
    copyFileSync(join(root, "build/loader/loader.node"), join(loader, "loader.node"));
    run("strip", ["--strip-all", join(loader, "loader.node")], process.env);
    if (!existsSync(join(binaries, "memformer.node")))
      throw new Error(`prebuildify left no ${join(binaries, "memformer.node")}`);
    for (const folder of [binaries, loader]) {
      for (const name of readdirSync(folder)) {
        const path = join(folder, name);
        console.log(
          `${String(statSync(path).size).padStart(10)}  ${relative(root, path)}  (LibTorch ${libtorch.version}, ${libtorch.variant})`,
        );
      }
    }
  }
});

function run(command, args, env) {
  const { status, error } = spawnSync(command, args, { cwd: root, env, stdio: "inherit" });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${command} ended with ${status}`);
}
