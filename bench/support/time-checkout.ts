/**
 * Prints tokens a second of the unpadded training pipeline of one checkout, for bench -- beside, in a process of its
 * own: ROOT CONFIGURATION LANES SECONDS, the configuration as JSON. Every module but this one is that checkout's; one
 * from before an option was renamed gets it by its older name.
 */
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type * as library from "../../lib/index.ts";
import { oldNames } from "../../lib/old-names.ts";
import type { Configuration } from "./configurations.ts";
import type * as pipelineModule from "./pipeline.ts";
import type * as windowModule from "./window.ts";

const [root = ".", configuration = "{}", lanes = "1", seconds = "2"] = process.argv.slice(2);
const of = async <T>(path: string): Promise<T> => (await import(pathToFileURL(join(resolve(root), path)).href)) as T;
const { Memformer, modelSchema } = await of<typeof library>("lib/index.ts");
const { timePipeline } = await of<typeof pipelineModule>("bench/support/pipeline.ts");
const { randomSegments, resident } = await of<typeof windowModule>("bench/support/window.ts");

const { horizon, ...given } = JSON.parse(configuration) as Configuration,
  batch = Number(lanes);
const known = (name: string): boolean => Object.hasOwn(modelSchema.shape, name);
const options = Object.fromEntries(
  Object.entries(given).flatMap(([name, value]) => {
    const found = [name, ...Object.keys(oldNames).filter((old) => oldNames[old] === name)].find(known);
    return found === undefined ? [] : [[found, value]]; // without the option a model has its plain form
  }),
);
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
console.log((batch * window[0]!.length * horizon) / sorted[sorted.length >> 1]!);
process.exit(0);
