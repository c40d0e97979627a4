/** The metrics of a service, by the names that docs/service.md lists. */
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { SchedulerStep } from "../../generate/scheduler/scheduler-options.ts";
import { Counter, Gauge, Histogram, type Instrument, type Reading } from "./instruments.ts";

/** How a turn ended. */
export const outcomes = ["stop", "length", "end", "read", "abort", "error", "rejected", "replayed"] as const;
export type Outcome = (typeof outcomes)[number];
export const storeCalls = ["get", "put", "delete", "list", "touch"] as const;
export type StoreCall = (typeof storeCalls)[number];

/** What is asked for when the metrics are read. */
export interface Levels {
  /** Sessions and their bytes, by where they are. */
  readonly device: { readonly count: number; readonly bytes: number };
  readonly host: { readonly count: number; readonly bytes: number };
  readonly running: number;
  readonly waiting: number;
  readonly moves: number;
}

const latencies = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const steps = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1];

export class ServiceMetrics {
  readonly requests = new Counter<Outcome>(
    "memformer_requests_total",
    "Turns, by how they ended.",
    "outcome",
    outcomes,
  );
  readonly tokens = new Counter<"read" | "generated">("memformer_tokens_total", "Tokens.", "kind", [
    "read",
    "generated",
  ]);
  readonly steps = new Counter("memformer_steps_total", "Steps of the scheduler that read or drew something.");
  readonly segments = new Counter("memformer_segments_total", "Segments that reached the memory of a session.");
  readonly stepSessions = new Histogram(
    "memformer_step_sessions",
    "Sessions that drew in one step.",
    [1, 2, 4, 8, 16, 32, 64, 128, 256],
  );
  readonly stepSeconds = new Histogram("memformer_step_seconds", "Duration of a step.", steps);
  readonly firstToken = new Histogram(
    "memformer_time_to_first_token_seconds",
    "From the request to its first token.",
    latencies,
  );
  readonly betweenTokens = new Histogram(
    "memformer_time_between_tokens_seconds",
    "Between two pieces of one turn.",
    latencies,
  );
  readonly queue = new Histogram("memformer_queue_seconds", "Until a turn was let in.", latencies);
  readonly store = new Histogram<StoreCall>(
    "memformer_store_seconds",
    "Duration of a call of the store.",
    latencies,
    "op",
    storeCalls,
  );
  readonly conflicts = new Counter("memformer_store_conflicts_total", "Writes that another process' came before.");
  readonly #delay = monitorEventLoopDelay({ resolution: 10 });
  readonly #levels: () => Levels;
  #lastStep: number | undefined;

  constructor(levels: () => Levels) {
    this.#levels = levels;
    this.#delay.enable();
  }

  /** When the last step ended, in milliseconds since 1970; undefined: there was none. */
  get lastStep(): number | undefined {
    return this.#lastStep;
  }

  /** A step of the scheduler. */
  step({ generated, decoding, read, seconds }: SchedulerStep): void {
    this.#lastStep = Date.now();
    this.steps.add(1);
    this.stepSeconds.observe(seconds);
    if (decoding > 0) this.stepSessions.observe(decoding);
    this.tokens.add(generated, "generated");
    this.tokens.add(read, "read");
  }

  /** All of them. */
  get instruments(): readonly Instrument[] {
    return [
      new Gauge("memformer_sessions", "Sessions held by this process.", () => this.#byState("count")),
      new Gauge("memformer_session_bytes", "Bytes of their memories and tokens.", () => this.#byState("bytes")),
      new Gauge("memformer_requests_running", "Turns that were let in.", () => this.#levels().running),
      new Gauge("memformer_requests_waiting", "Turns that wait to be.", () => this.#levels().waiting),
      this.requests,
      this.tokens,
      this.segments,
      this.steps,
      this.stepSessions,
      this.stepSeconds,
      this.firstToken,
      this.betweenTokens,
      this.queue,
      {
        name: "memformer_moves_total",
        help: "Memories moved from the engine to host memory.",
        type: "counter",
        readings: () => [{ value: this.#levels().moves }],
      },
      this.store,
      this.conflicts,
      new Gauge(
        "memformer_last_step_timestamp_seconds",
        "When the last step ended.",
        () => (this.#lastStep ?? 0) / 1000,
      ),
      new Gauge(
        "memformer_event_loop_delay_seconds",
        "Mean delay of the event loop.",
        () => finite(this.#delay.mean) / 1e9,
      ),
    ];
  }

  /** Stops measuring the event loop. */
  close(): void {
    this.#delay.disable();
  }

  #byState(what: "count" | "bytes"): Reading[] {
    const { device, host } = this.#levels();
    return [
      { labels: { state: "device" }, value: device[what] },
      { labels: { state: "host" }, value: host[what] },
    ];
  }
}

/** Those of the process; a registry of the host's has its own. */
export function processInstruments(): readonly Instrument[] {
  return [
    new Gauge("process_resident_memory_bytes", "Resident memory of the process.", () => process.memoryUsage.rss()),
    {
      name: "process_cpu_seconds_total",
      help: "CPU time of the process.",
      type: "counter",
      readings: () => [{ value: (process.cpuUsage().user + process.cpuUsage().system) / 1e6 }],
    },
    new Gauge("process_start_time_seconds", "When the process began.", () => Date.now() / 1000 - process.uptime()),
  ];
}

function finite(value: number): number {
  return Number.isFinite(value) ? value : 0;
}
