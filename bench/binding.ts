/**
 * What it costs to drive training from JavaScript: the same MRBP steps, windows back to back, driven by
 * lib/gradients/mrbp.ts and by C++ inside the engine, in turns. On a GPU the two configurations of `bench -- cuda`,
 * else one that fits a CPU. Exit code 1 when JavaScript's takes over 3 % more.   [--batches 1,16,64] [--configurations
 * wiki,mnist] [--windows 20] [--rounds 5]
 */
import { AdamW, Memformer, synchronize } from "../lib/index.ts";
import { configurations, cpuConfigurations, type Configuration } from "./support/configurations.ts";
import { choice, flag, median, report, type Row } from "./support/report.ts";
import { disposeWindow, enqueueWindow, randomSegments, resident } from "./support/window.ts";

const most = 1.03;
const rate = 3e-4,
  clip = 1;

const onCpu: Readonly<Record<string, Configuration>> = { demo: cpuConfigurations.demo };

export async function binding(flags: readonly string[]): Promise<boolean> {
  const windows = flag(flags, "windows", 20),
    rounds = flag(flags, "rounds", 5);
  await using any = await Memformer.create({ preset: "tiny" });
  const gpu = any.device !== "cpu",
    known = gpu ? configurations : onCpu;
  const sizes = Array.from({ length: 1024 }, (_, i) => String(i + 1));
  const rows: Row[] = [];
  let sound = true;
  for (const name of choice(flags, "configurations", Object.keys(known), Object.keys(known))) {
    const { horizon, ...options } = known[name]!;
    for (const batch of choice(flags, "batches", sizes, gpu ? ["1", "16", "64"] : ["1", "16"]).map(Number)) {
      await using model = await Memformer.create({ ...options, precision: gpu ? "bfloat16" : "float32" });
      using optimizer = new AdamW(model);
      const window = resident(model, randomSegments(model, batch, horizon, false));
      const segmentsPerStep = Math.min(horizon, model.segmentsPerStep(window[0]!)),
        outside: number[] = [],
        inside: number[] = [];
      const drive = async (count: number): Promise<number> => {
        let state = model.initialState(batch),
          before = Promise.resolve();
        await synchronize();
        const began = performance.now();
        for (let i = 0; i < count; i++) {
          const made = enqueueWindow(model, window, "mrbp", state, i, optimizer);
          for (const tensor of [...made.losses, made.norm]) tensor.dispose();
          state = made.state;
          await before; // the queue holds two windows at most
          before = synchronize();
        }
        await synchronize();
        for (const tensor of state) tensor.dispose();
        return (performance.now() - began) / 1000;
      };
      await drive(3); // what is recorded is recorded by now
      for (let round = 0; round < rounds; round++) {
        outside.push((await drive(windows)) / windows);
        const state = model.initialState(batch);
        inside.push(
          (await optimizer.timeInside(window, state, { segmentsPerStep, windows, learningRate: rate, clip })) / windows,
        );
        for (const tensor of state) tensor.dispose();
      }
      disposeWindow(window);
      const ratio = median(outside.map((seconds, i) => seconds / inside[i]!));
      sound &&= ratio <= most;
      const ms = (seconds: readonly number[]): string => (1000 * median(seconds)).toFixed(2);
      rows.push({
        configuration: name,
        batch,
        device: model.device,
        horizon,
        "segments a step": segmentsPerStep,
        "ms a window, JavaScript": ms(outside),
        "ms a window, C++": ms(inside),
        "ratio (median of rounds)": ratio.toFixed(3),
      });
      console.error(`${name}, batch ${batch}: ${ratio.toFixed(3)}`);
    }
  }
  report(gpu ? "binding-gpu" : "binding", "Training driven from JavaScript and from C++", rows, { windows, rounds });
  return sound;
}
