/**
 * What it costs to drive training from JavaScript: the same MRBP steps, windows back to back, enqueued while the engine
 * works, as a run does, and enqueued beforehand, so that the engine never waits for JavaScript; in turns. On a GPU the
 * two configurations of `bench -- cuda`, else one that fits a CPU. Exit code 1 when driving takes over 3 % more.
 * [--batches 1,16,64] [--configurations wiki,mnist] [--windows 20] [--rounds 5]
 */
import { AdamW, applyOperator, Memformer, synchronize, Tensor, tidy, type State } from "../lib/index.ts";
import { configurations, cpuConfigurations, type Configuration } from "./support/configurations.ts";
import { choice, flag, median, report, type Row } from "./support/report.ts";
import { disposeWindow, enqueueWindow, randomSegments, resident } from "./support/window.ts";

const most = 1.03;
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
        driven: number[] = [],
        beforehand: number[] = [];
      let enqueueing = 0; // seconds that JavaScript took for the windows of a round
      const enqueue = (state: State, i: number): State => {
        const began = performance.now();
        const made = enqueueWindow(model, window, "mrbp", state, i, optimizer);
        for (const tensor of [...made.losses, made.norm]) tensor.dispose();
        enqueueing += (performance.now() - began) / 1000;
        return made.state;
      };
      const drive = async (count: number): Promise<number> => {
        let state = model.initialState(batch),
          before = Promise.resolve();
        await synchronize();
        enqueueing = 0;
        const began = performance.now();
        for (let i = 0; i < count; i++) {
          state = enqueue(state, i);
          await before; // the queue holds two windows at most
          before = synchronize();
        }
        await synchronize();
        for (const tensor of state) tensor.dispose();
        return (performance.now() - began) / 1000;
      };
      const enqueuedBeforehand = async (count: number): Promise<number> => {
        let state = model.initialState(batch);
        await synchronize();
        const free = await holdEngine(2 * enqueueing);
        for (let i = 0; i < count; i++) state = enqueue(state, i);
        await free.end;
        const began = performance.now();
        await synchronize();
        for (const tensor of state) tensor.dispose();
        return (performance.now() - began) / 1000;
      };
      await drive(3); // what is recorded is recorded by now
      for (let round = 0; round < rounds; round++) {
        driven.push((await drive(windows)) / windows);
        beforehand.push((await enqueuedBeforehand(windows)) / windows);
      }
      disposeWindow(window);
      const ratio = median(driven.map((seconds, i) => seconds / beforehand[i]!));
      sound &&= ratio <= most;
      const ms = (seconds: readonly number[]): string => (1000 * median(seconds)).toFixed(2);
      rows.push({
        configuration: name,
        batch,
        device: model.device,
        horizon,
        "segments a step": segmentsPerStep,
        "ms a window, driven": ms(driven),
        "ms a window, enqueued beforehand": ms(beforehand),
        "ratio (median of rounds)": ratio.toFixed(3),
      });
      console.error(`${name}, batch ${batch}: ${ratio.toFixed(3)}`);
    }
  }
  report(gpu ? "binding-gpu" : "binding", "Training driven from JavaScript, and enqueued beforehand", rows, {
    windows,
    rounds,
  });
  return sound;
}

/** Keeps the engine's thread busy on the host for about so many seconds, from now to `end`. */
async function holdEngine(seconds: number): Promise<{ readonly end: Promise<number> }> {
  using factor = Tensor.from(new Float32Array(512 * 512), [512, 512]);
  const products = (count: number): Tensor =>
    tidy(() => {
      let product = applyOperator("aten::mm", factor, factor);
      for (let i = 1; i < count; i++) product = applyOperator("aten::mm", product, factor);
      return applyOperator("aten::sum", product);
    });
  using warm = products(10);
  await warm.item();
  const began = performance.now();
  using probe = products(20);
  await probe.item();
  const each = (performance.now() - began) / 1000 / 20;
  using last = products(Math.ceil(seconds / each));
  return { end: last.item() };
}
