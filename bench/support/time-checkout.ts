/**
 * Prints tokens a second of the unpadded training pipeline of one checkout, for bench -- beside, in a process of its
 * own: ROOT CONFIGURATION LANES SECONDS. Every module but this one is that checkout's.
 */
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type * as library from "../../lib/index.ts";
import type * as configurationsModule from "./configurations.ts";
import type * as pipelineModule from "./pipeline.ts";
import type * as windowModule from "./window.ts";

const [root = ".", name = "", lanes = "1", seconds = "2"] = process.argv.slice(2);
const of = async <T>(path: string): Promise<T> => (await import(pathToFileURL(join(resolve(root), path)).href)) as T;
const { Memformer } = await of<typeof library>("lib/index.ts");
const { configurations } = await of<typeof configurationsModule>("bench/support/configurations.ts");
const { timePipeline } = await of<typeof pipelineModule>("bench/support/pipeline.ts");
const { randomSegments, resident } = await of<typeof windowModule>("bench/support/window.ts");

const { horizon, ...options } = configurations[name]!,
  batch = Number(lanes);
const onGpu = (await Memformer.create({ preset: "tiny" })).device !== "cpu";
await using model = await Memformer.create({ ...options, precision: onGpu ? "bfloat16" : "float32" });
const window = resident(model, randomSegments(model, batch, horizon, false)),
  plan = { method: "mrbp", warmup: 5 } as const;
const {
  seconds: [probe],
} = await timePipeline(model, window, { ...plan, windows: 1 });
const { seconds: times } = await timePipeline(model, window, {
  ...plan,
  windows: Math.max(5, Math.ceil(Number(seconds) / probe!)),
});
const sorted = [...times].sort((a, b) => a - b);
console.log((batch * model.config.segmentLength * horizon) / sorted[sorted.length >> 1]!);
process.exit(0);
