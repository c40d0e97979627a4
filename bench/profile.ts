/**
 * Where a training window's time on the GPU goes, by kernel: `npm run bench -- profile [--configuration wiki] [--batch 16] [--top 30]`.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AdamW, Memformer, profile, synchronize } from "../lib/index.ts";
import { configurations } from "./support/configurations.ts";
import { choice, flag, report } from "./support/report.ts";
import { disposeWindow, enqueueWindow, randomSegments, resident } from "./support/window.ts";

interface TraceEvent {
  readonly cat?: string;
  readonly name: string;
  readonly ts: number;
  readonly dur?: number;
}

const onDevice = new Set(["kernel", "gpu_memcpy", "gpu_memset"]);

export async function profiled(flags: readonly string[]): Promise<boolean> {
  const [name] = choice(flags, "configuration", Object.keys(configurations), ["wiki"]);
  const batch = flag(flags, "batch", 16), top = flag(flags, "top", 30), { horizon, ...options } = configurations[name!]!;
  await using model = await Memformer.create({ ...options, precision: "bfloat16", device: "cuda" });
  using optimizer = new AdamW(model);
  const window = resident(model, randomSegments(model, batch, horizon, false));
  let state = model.initialState(batch);
  const step = (): void => {
    const made = enqueueWindow(model, window, "mrbp", state, 0, optimizer);
    state = made.state;
    for (const tensor of [...made.losses, made.norm]) tensor.dispose();
  };
  for (let i = 0; i < 4; i++) step();
  await synchronize();
  const folder = mkdtempSync(join(tmpdir(), "memformer-profile-")), trace = join(folder, "trace.json");
  try {
    await profile(trace, step);
    const events = (JSON.parse(readFileSync(trace, "utf8")) as { traceEvents: TraceEvent[] }).traceEvents.filter(({ cat }) => onDevice.has(cat ?? ""));
    const kernels = new Map<string, { count: number; us: number }>();
    for (const event of events) {
      const kernel = kernels.get(event.name) ?? { count: 0, us: 0 };
      kernels.set(event.name, { count: kernel.count + 1, us: kernel.us + (event.dur ?? 0) });
    }
    const busy = [...kernels.values()].reduce((sum, { us }) => sum + us, 0);
    const span = Math.max(...events.map(({ ts, dur = 0 }) => ts + dur)) - Math.min(...events.map(({ ts }) => ts));
    const rows = [...kernels].sort((a, b) => b[1].us - a[1].us).slice(0, top).map(([kernel, { count, us }]) => ({
      "of the kernels' time": `${(100 * us / busy).toFixed(1)} %`, "us a window": Math.round(us), count, "us each": (us / count).toFixed(1),
      kernel: kernel.length > 110 ? `${kernel.slice(0, 107)}...` : kernel,
    }));
    const { refusal } = await model.recording();
    report(`profile-${name}-${batch}`, `Kernels of one ${name} window at batch ${batch}`, rows, {
      "kernels' ms": (busy / 1000).toFixed(2), "window's ms": (span / 1000).toFixed(2), kernels: events.length, ...(refusal === "" ? {} : { "not recorded": refusal }),
    });
  } finally {
    rmSync(folder, { recursive: true });
    for (const tensor of state) tensor.dispose();
    disposeWindow(window);
  }
  return true;
}
