/**
 * Peak memory and time of a window's gradient by BPTT, checkpointing a segment, and MRBP, as the horizon grows.
 * Targets: MRBP's peak grows by at most two memories a segment, BPTT's linearly with whole activations, and MRBP takes
 * at most 1.35x BPTT's time.
 */
import { memoryUsage, Memformer, resetPeakMemory, synchronize } from "../lib/index.ts";
import type { GradientMethodName } from "../lib/index.ts";
import { cpuConfigurations } from "./support/configurations.ts";
import { flag, median, report, type Row } from "./support/report.ts";
import { disposeWindow, randomWindow, timeSteps } from "./support/window.ts";

const methods = ["bptt", "checkpointing", "mrbp"] as const satisfies readonly GradientMethodName[];
const MiB = 2 ** 20;

export async function mrbpMemory(flags: readonly string[]): Promise<boolean> {
  const batch = flag(flags, "batch", 8),
    rounds = flag(flags, "rounds", 5);
  const { horizon: _, ...options } = cpuConfigurations.demo;
  await using model = await Memformer.create({ ...options, decoderLayers: 4, dropout: 0.1 });
  const memoryBytes = batch * model.stateBytes;
  await synchronize();
  const weights = memoryUsage().hostBytes; // the gradients, which the first window makes and all keep, are above them
  const peaks = new Map<string, number>(),
    times = new Map<string, number>(),
    rows: Row[] = [];
  for (const horizon of [1, 2, 4, 8, 16, 32]) {
    await synchronize();
    const held = memoryUsage().hostBytes,
      window = randomWindow(model, batch, horizon);
    await synchronize();
    const before = weights + memoryUsage().hostBytes - held;
    const seconds = new Map<string, number[]>();
    // Methods take turns, so that a slow moment of the machine meets all of them.
    for (let round = 0; round <= rounds; round++) {
      for (const method of methods) {
        await synchronize();
        resetPeakMemory();
        const [time] = await timeSteps(model, window, method, 1);
        peaks.set(`${method} ${horizon}`, memoryUsage().peakHostBytes - before);
        if (round > 0) seconds.set(method, [...(seconds.get(method) ?? []), time!]);
      }
    }
    disposeWindow(window);
    for (const method of methods) times.set(`${method} ${horizon}`, median(seconds.get(method)!));
    rows.push(
      Object.fromEntries([
        ["horizon", horizon],
        ...methods.flatMap((method) => [
          [`${method} MiB`, (peaks.get(`${method} ${horizon}`)! / MiB).toFixed(1)],
          [`${method} ms`, (times.get(`${method} ${horizon}`)! * 1000).toFixed(1)],
        ]),
        ["mrbp / bptt time", (times.get(`mrbp ${horizon}`)! / times.get(`bptt ${horizon}`)!).toFixed(2)],
      ]) as Row,
    );
  }
  report("mrbp", "Memory above weights and tokens, and time, of one window's gradient", rows, {
    batch,
    segmentLength: model.config.segmentLength,
    parameters: model.parameterCount,
    memoryKiB: memoryBytes / 1024,
    package: "memformer",
  });
  const growth = (method: string): number => (peaks.get(`${method} 32`)! - peaks.get(`${method} 2`)!) / 30;
  const ratio = Math.max(
    ...[4, 8, 16, 32].map((horizon) => times.get(`mrbp ${horizon}`)! / times.get(`bptt ${horizon}`)!),
  );
  const memories = growth("mrbp") / memoryBytes;
  console.log(
    `\nA segment more costs MRBP ${memories.toFixed(2)} memories, BPTT ${(growth("bptt") / memoryBytes).toFixed(1)}.`,
  );
  console.log(`MRBP takes at most ${ratio.toFixed(2)}x BPTT's time at horizons 4 to 32.`);
  return memories <= 2 && ratio <= 1.35;
}
