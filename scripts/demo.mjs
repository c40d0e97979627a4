/**
 * The main job on real text, by the commands a user has: train on Moby-Dick with memory replay back-propagation,
 * evaluate what was held out with the memory and with each ablation of it, and go on with the book.
 * `npm run demo` builds first.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fail, root } from "./dist.mjs";

// A terminal sends Ctrl-C to the child as well, which finishes its step: we end when it does, by its exit code.
process.on("SIGINT", () => {});

const began = performance.now();
const out = "runs/demo";
rmSync(join(root, out), { recursive: true, force: true });

await run("train", "configs/demo.json", "--out", out);
await run("evaluate", out);
await run("inspect", out);
await run(
  "generate",
  out,
  "--prompt",
  "CHAPTER 136.\n\n",
  "--max-tokens",
  "400",
  "--temperature",
  "0.7",
  "--seed",
  "1",
);
console.log(
  `The demo took ${((performance.now() - began) / 60_000).toFixed(1)} minutes; the model is in ${out}/model.`,
);

async function run(...args) {
  console.log(`\n$ memformer ${args.map((arg) => (/[^\w./-]/.test(arg) ? JSON.stringify(arg) : arg)).join(" ")}`);
  const child = spawn(process.execPath, [join(root, "dist/cli/main.js"), ...args], { cwd: root, stdio: "inherit" });
  const [status, signal] = await once(child, "close");
  if (signal !== null) fail(`memformer ${args[0]} was ended by ${signal}.`);
  if (status !== 0) process.exit(status);
}
