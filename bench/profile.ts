/**
 * Where a training window's time on the GPU goes, by kernel: `npm run bench -- profile [--configuration wiki] [--batch 16] [--together 1]
 * [--micro-batch 16] [--top 30]`.
 */
import { AdamW, Memformer, synchronize } from "../lib/index.ts";
import { configurations } from "./support/configurations.ts";
import { deviceEvents, occupancy } from "./support/kernels.ts";
import { choice, flag, report } from "./support/report.ts";
import { cutFlags, disposeWindow, enqueueWindow, randomSegments, resident, segmentsAStep } from "./support/window.ts";

export async function profiled(flags: readonly string[]): Promise<boolean> {
  const [name] = choice(flags, "configuration", Object.keys(configurations), ["wiki"]);
  const batch = flag(flags, "batch", 16), top = flag(flags, "top", 30), { horizon, ...options } = configurations[name!]!;
  await using model = await Memformer.create({ ...options, precision: "bfloat16", device: "cuda" });
  using optimizer = new AdamW(model);
  const window = resident(model, randomSegments(model, batch, horizon, false));
  let state = model.initialState(batch);
  const cut = cutFlags(flags);
  const step = (): void => {
    const made = enqueueWindow(model, window, "mrbp", state, 0, optimizer, cut);
    state = made.state;
    for (const tensor of [...made.losses, made.norm]) tensor.dispose();
  };
  for (let i = 0; i < 4; i++) step();
  await synchronize();
  const events = await deviceEvents(step), { span, busy } = occupancy(events);
  const kernels = new Map<string, { count: number; us: number }>();
  for (const { name: kernel, duration } of events) {
    const { count, us } = kernels.get(kernel) ?? { count: 0, us: 0 };
    kernels.set(kernel, { count: count + 1, us: us + duration });
  }
  const sum = events.reduce((us, { duration }) => us + duration, 0);
  const rows = [...kernels].sort((a, b) => b[1].us - a[1].us).slice(0, top).map(([kernel, { count, us }]) => ({
    "of the kernels' time": `${(100 * us / sum).toFixed(1)} %`, "us a window": Math.round(us), count, "us each": (us / count).toFixed(1),
    kernel: kernel.length > 110 ? `${kernel.slice(0, 107)}...` : kernel,
  }));
  const { refusal } = await model.recording();
  report(`profile-${name}-${batch}`, `Kernels of one ${name} window at batch ${batch}`, rows, {
    "kernels' ms": (sum / 1000).toFixed(2), "window's ms": (span / 1000).toFixed(2), "GPU busy": `${(100 * busy / span).toFixed(1)} %`,
    kernels: events.length, "segments a step": segmentsAStep(model, window, cut),
    "rows a step": Math.min(batch, cut.microBatch ?? batch), ...(refusal === "" ? {} : { "not recorded": refusal }),
  });
  for (const tensor of state) tensor.dispose();
  disposeWindow(window);
  return true;
}
