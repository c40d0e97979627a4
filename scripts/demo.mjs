/**
 * The main job on real text, by the commands a user has: train on Moby-Dick with memory replay back-propagation,
 * evaluate what was held out with the memory whole, zeroed, shuffled and frozen, and go on with the book.
 * `npm run demo` builds first.
 */
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fail, root } from "./dist.mjs";

const began = performance.now();
const out = "runs/demo";
rmSync(join(root, out), { recursive: true, force: true });

run("train", "configs/demo.json", "--out", out);
run("evaluate", out);
run("inspect", out);
run("generate", out, "--prompt", "CHAPTER 136.\n\n", "--max-tokens", "400", "--temperature", "0.7", "--seed", "1");
console.log(
  `The demo took ${((performance.now() - began) / 60_000).toFixed(1)} minutes; the model is in ${out}/model.`,
);

function run(...args) {
  console.log(`\n$ memformer ${args.map((arg) => (/[^\w./-]/.test(arg) ? JSON.stringify(arg) : arg)).join(" ")}`);
  // Signals reach the child as well: it ends in order, and so do we, by its exit code.
  const { status, signal } = spawnSync(process.execPath, [join(root, "dist/cli/main.js"), ...args], {
    cwd: root,
    stdio: "inherit",
  });
  if (signal !== null) fail(`memformer ${args[0]} was ended by ${signal}.`);
  if (status !== 0) process.exit(status);
}
