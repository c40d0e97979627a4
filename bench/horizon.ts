/**
 * Peak memory and time of MRBP's training step on a GPU as the horizon grows, with one segment a step and with as many
 * as the model thinks best: `npm run bench -- horizon [--configuration wiki] [--batches 1,16] [--horizons 4,16]`.
 * Target: with one segment a step, a segment more costs no more than two memories.
 */
import { Memformer, trimMemory } from "../lib/index.ts";
import { configurations } from "./support/configurations.ts";
import { timePipeline } from "./support/pipeline.ts";
import { choice, median, report, type Row } from "./support/report.ts";
import { disposeWindow, randomSegments, resident, segmentsAStep } from "./support/window.ts";

const MiB = 2 ** 20;

export async function horizonMemory(flags: readonly string[]): Promise<boolean> {
  const [name] = choice(flags, "configuration", Object.keys(configurations), ["wiki"]),
    { horizon: _, ...options } = configurations[name!]!;
  const numbers = Array.from({ length: 1024 }, (_, i) => String(i + 1));
  const batches = choice(flags, "batches", numbers, ["1", "16"]).map(Number),
    horizons = choice(flags, "horizons", numbers, ["4", "16"]).map(Number);
  const rows: Row[] = [];
  let sound = true;
  for (const batch of batches)
    for (const segmentsPerStep of [1, undefined]) {
      const peaks: number[] = [];
      let memories = 0;
      for (const horizon of horizons) {
        await using model = await Memformer.create({ ...options, precision: "bfloat16", device: "cuda" });
        const window = resident(model, randomSegments(model, batch, horizon, false));
        const { seconds, peakBytes } = await timePipeline(model, window, {
          method: "mrbp",
          warmup: 3,
          windows: 5,
          cut: { segmentsPerStep },
        });
        const step = segmentsAStep(model, window, { segmentsPerStep }),
          tokens = batch * model.config.segmentLength * horizon;
        rows.push({
          batch,
          horizon,
          "segments a step": step,
          "peak MiB": Math.round(peakBytes / MiB),
          "tok/s": Math.round(tokens / median(seconds)),
        });
        peaks.push(peakBytes);
        memories = batch * model.stateBytes;
        disposeWindow(window);
        await model.dispose();
        trimMemory();
      }
      const growth = (peaks.at(-1)! - peaks[0]!) / (horizons.at(-1)! - horizons[0]!);
      if (segmentsPerStep === 1) {
        console.log(
          `batch ${batch}: a segment more costs ${(growth / memories).toFixed(2)} memories of ${(memories / MiB).toFixed(1)} MiB`,
        );
        sound &&= growth <= 2 * memories;
      }
    }
  report(`horizon-${name}`, `Peak GPU memory of ${name} by horizon, bfloat16`, rows);
  return sound;
}
