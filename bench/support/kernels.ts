/** What a GPU does while a few lines run, from LibTorch's profiler. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeProfile } from "../../lib/index.ts";

/** A kernel, copy or fill, in microseconds. */
export interface DeviceEvent {
  readonly name: string;
  readonly begin: number;
  readonly duration: number;
}

interface TraceEvent {
  readonly cat?: string;
  readonly name: string;
  readonly ts: number;
  readonly dur?: number;
}

const onDevice = new Set(["kernel", "gpu_memcpy", "gpu_memset"]);

/** All that ran on the GPU for `body`. */
export async function deviceEvents(body: () => void | Promise<void>): Promise<DeviceEvent[]> {
  const folder = mkdtempSync(join(tmpdir(), "memformer-profile-")),
    path = join(folder, "trace.json");
  try {
    await writeProfile(path, body);
    const { traceEvents } = JSON.parse(readFileSync(path, "utf8")) as { traceEvents: TraceEvent[] };
    return traceEvents
      .filter(({ cat }) => onDevice.has(cat ?? ""))
      .map(({ name, ts, dur = 0 }) => ({ name, begin: ts, duration: dur }))
      .sort((a, b) => a.begin - b.begin);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** From the first event to the end of the last, and how much of it at least one event ran; microseconds. */
export function occupancy(events: readonly DeviceEvent[]): { span: number; busy: number } {
  if (events.length === 0) return { span: 0, busy: 0 };
  let busy = 0,
    until = events[0]!.begin;
  for (const { begin, duration } of events) {
    const end = begin + duration;
    busy += Math.max(0, end - Math.max(until, begin));
    until = Math.max(until, end);
  }
  return { span: until - events[0]!.begin, busy };
}
