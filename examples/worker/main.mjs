/**
 * Trains in a worker thread, then opens what it has made: `node examples/worker/main.mjs FOLDER [STEPS]`, after
 * `npm run build`.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { Memformer } from "memformer";

const [, , folder, steps = "20"] = process.argv;
const worker = new Worker(new URL("./trainer.mjs", import.meta.url), { workerData: { folder, steps: Number(steps) } });
worker.on("message", ({ step, loss }) => console.log(`step ${step}: loss ${loss.toFixed(3)}`));
process.once("SIGINT", () => worker.postMessage("stop"));
await once(worker, "exit");

const model = await Memformer.load(folder, { threads: 1 });
console.log(`${model.parameterCount} parameters in ${folder}`);
await model.dispose();
