/** The worker of main.mjs: an engine of its own trains here, and posts plain numbers. */
import { parentPort, workerData } from "node:worker_threads";
import { Memformer, RecallStream, Trainer } from "memformer";

const model = await Memformer.create({ preset: "tiny", vocabulary: 34, bos: 33, segmentLength: 8, threads: 1 });
const trainer = new Trainer(model, { steps: workerData.steps, horizon: 4 });
parentPort.once("message", () => trainer.stop()); // finishes the step under way
for await (const { step, loss } of trainer.run(new RecallStream({ lanes: 8 }))) parentPort.postMessage({ step, loss });
await model.save(workerData.folder); // a model cannot be posted, its folder can be named
trainer.dispose();
await model.dispose();
parentPort.close();
