/**
 * The main job on real text, by the commands a user has; `npm run demo` builds first.
 *
 * `npm run demo` trains on Moby-Dick with memory replay back-propagation, evaluates what was held out with the memory
 * and with each ablation of it, and goes on with the book. `npm run demo -- speeches` shows what a memory is worth: on
 * State of the Union addresses, with the memory and by a twin without, trained side by side, a thread each.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fail, root } from "./dist.mjs";

const demos = { book, speeches };
const [name = "book", ...more] = process.argv.slice(2);
if (!Object.hasOwn(demos, name) || more.length > 0) {
  console.error(`there is no demo "${[name, ...more].join(" ")}"; demos: ${Object.keys(demos).join(", ")}`);
  process.exit(2);
}

// A terminal sends Ctrl-C to the children as well, which finish their step: we end when they do, by their exit code.
process.on("SIGINT", () => {});

const began = performance.now();
const folder = await demos[name]();
const minutes = ((performance.now() - began) / 60_000).toFixed(1);
console.log(`The demo took ${minutes} minutes; the model is in ${folder}/model.`);

async function book() {
  const out = "runs/demo";
  rmSync(join(root, out), { recursive: true, force: true });
  await run(["train", "configs/demo.json", "--out", out]);
  await run(["evaluate", out]);
  await run(["inspect", out]);
  const manner = ["--max-tokens", "400", "--temperature", "0.7", "--seed", "1"];
  await run(["generate", out, "--prompt", "CHAPTER 136.\n\n", ...manner]);
  return out;
}

async function speeches() {
  const [out, twin] = ["runs/speeches", "runs/speeches-twin"];
  for (const each of [out, twin]) rmSync(join(root, each), { recursive: true, force: true });
  const train = (to, ...args) => ["train", "configs/speeches.json", "--out", to, "--threads", "1", ...args];
  await Promise.all([run(train(out), "memory"), run(train(twin, "--no-memory"), "twin")]);
  await run(["evaluate", out, "--twin", twin, "--segments", "1024"]);
  return out;
}

/** Runs a command; its lines come after `label`, where it has one. */
async function run(args, label) {
  console.log(`\n$ memformer ${args.map((arg) => (/[^\w./-]/.test(arg) ? JSON.stringify(arg) : arg)).join(" ")}`);
  const command = [join(root, "dist/cli/main.js"), ...args],
    stdio = label === undefined ? "inherit" : ["inherit", "pipe", "pipe"];
  const child = spawn(process.execPath, command, { cwd: root, stdio });
  process.once("exit", () => child.kill()); // one that has failed ends what runs beside it
  for (const stream of [child.stdout, child.stderr])
    if (stream !== null) createInterface(stream).on("line", (line) => console.log(`[${label}] ${line}`));
  const [status, signal] = await once(child, "close");
  if (signal !== null) fail(`memformer ${args[0]} was ended by ${signal}.`);
  if (status !== 0) process.exit(status);
}
