/**
 * Table 3: peak memory and speed of a training step by BPTT, by checkpointing a segment, and by MRBP, as the horizon
 * grows. One segment a step of MRBP, as in Algorithm 1.
 */
import { resetPeakMemory, synchronize, trimMemory } from "../engine/runtime.ts";
import { median } from "../diagnose/statistics.ts";
import type { GradientMethodName } from "../gradients/methods.ts";
import { Memformer } from "../model/memformer.ts";
import { experiment, type Budget, type Rows } from "./experiment.ts";
import { tensorBytes } from "./machine.ts";
import type { Chart } from "./report/chart.ts";
import { cell, mean, valuesOf, type Table } from "./report/table.ts";
import { disposeWindow, randomWindow, timeSteps } from "./windows.ts";

interface Shape {
  readonly layers: number;
  readonly heads: number;
  readonly width: number;
  readonly feedForward: number;
  readonly memorySlots: number;
  readonly segmentLength: number;
  readonly batch: number;
}

export interface MrbpSettings extends Shape {
  readonly method: GradientMethodName;
  readonly horizon: number;
  readonly rounds: number;
  readonly device: "cpu" | "cuda";
  readonly precision: "float32" | "bfloat16";
}

export interface MrbpResult {
  /** Of tensors, above weights and tokens, and with them. */
  readonly peakBytes: number;
  readonly wholeBytes: number;
  /** Median of the rounds, and the least and greatest. */
  readonly seconds: number;
  readonly range: readonly [number, number];
  readonly memoryBytes: number;
}

const methods = ["bptt", "checkpointing", "mrbp"] as const satisfies readonly GradientMethodName[];

/** The paper gives layers, heads, width and slots; segments of 128 tokens and batches are ours. */
const paper: Shape = {
  layers: 12,
  heads: 8,
  width: 512,
  feedForward: 2048,
  memorySlots: 32,
  segmentLength: 128,
  batch: 16,
};
const small: Shape = {
  layers: 2,
  heads: 2,
  width: 64,
  feedForward: 128,
  memorySlots: 8,
  segmentLength: 32,
  batch: 4,
};
const budgets: Readonly<Record<Budget, { shape: Shape; horizons: readonly number[]; rounds: number }>> = {
  smoke: { shape: small, horizons: [2, 4], rounds: 2 },
  minutes: { shape: paper, horizons: [4, 16], rounds: 10 },
  full: { shape: paper, horizons: [1, 2, 4, 8, 16, 32], rounds: 30 },
};

const MiB = 2 ** 20;
const published: Table = {
  title: "The paper's Table 3 (12 layers, 8 heads, width 512, 32 slots, horizon 4)",
  columns: ["method", "peak MB", "of BPTT's", "speed beside BPTT"],
  rows: [
    ["bptt", "16,177", "1.00", "1.00"],
    ["checkpointing", "9,885", "0.61", "0.48"],
    ["mrbp", "7,229", "0.45", "0.90"],
  ],
  note: "From horizon 4 to 16 MRBP's peak grows by 62 MB. Segment length, batch and what a peak includes are not stated; compare ratios.",
};

export const mrbp = experiment<MrbpSettings, MrbpResult>({
  name: "mrbp",
  title: "Memory and speed of memory replay back-propagation",
  claim: "MRBP takes 45 % of BPTT's memory at 0.90 of its speed; checkpointing 61 % at 0.48 (Table 3).",
  async plan({ budget, device }) {
    const { shape, horizons, rounds } = budgets[budget],
      precision = device === "cuda" ? "bfloat16" : "float32";
    return horizons.flatMap((horizon) =>
      methods.map((method): MrbpSettings => ({ ...shape, method, horizon, rounds, device, precision })),
    );
  },
  async run({ layers, batch, method, horizon, rounds, device: _, ...sizes }, { device, signal }) {
    await using model = await Memformer.create({
      ...sizes,
      architecture: "decoder",
      decoderLayers: layers,
      device,
    });
    const window = randomWindow(model, batch, horizon),
      cut = { segmentsPerStep: 1 };
    try {
      resetPeakMemory(); // what a recorded step holds is counted when it is recorded, not when it is replayed
      await timeSteps(model, window, method, 2, undefined, cut); // makes what is made once: gradients, recordings
      await synchronize();
      trimMemory();
      const before = tensorBytes(model.device).now;
      const seconds: number[] = [];
      for (let round = 0; round < rounds; round++) {
        signal?.throwIfAborted();
        seconds.push(...(await timeSteps(model, window, method, 1, undefined, cut)));
      }
      const { peak } = tensorBytes(model.device);
      return {
        peakBytes: peak - before,
        wholeBytes: peak,
        seconds: median(seconds),
        range: [Math.min(...seconds), Math.max(...seconds)],
        memoryBytes: batch * model.stateBytes,
      };
    } finally {
      disposeWindow(window);
    }
  },
  report(runs, rows) {
    const horizons = [...new Set(runs.map(({ horizon }) => horizon))];
    const of = (method: GradientMethodName, horizon: number): ReturnType<Rows<MrbpSettings, MrbpResult>>[] =>
      runs.filter((run) => run.method === method && run.horizon === horizon).map(rows);
    const table: Table = {
      title: "Ours",
      columns: [
        "method",
        "horizon",
        "peak MiB above weights",
        "of BPTT's",
        "whole peak MiB",
        "ms",
        "speed beside BPTT",
      ],
      rows: horizons.flatMap((horizon) =>
        methods.map((method) => {
          const own = of(method, horizon),
            [peak] = valuesOf(of("bptt", horizon), ({ peakBytes }) => peakBytes),
            [seconds] = valuesOf(of("bptt", horizon), (result) => result.seconds);
          return [
            method,
            String(horizon),
            cell(
              own,
              ({ peakBytes }) => peakBytes / MiB,
              (value) => value.toFixed(1),
            ),
            cell(
              own,
              ({ peakBytes }) => (peak === undefined ? undefined : peakBytes / peak),
              (value) => value.toFixed(2),
            ),
            cell(
              own,
              ({ wholeBytes }) => wholeBytes / MiB,
              (value) => value.toFixed(1),
            ),
            cell(
              own,
              (result) => result.seconds * 1000,
              (value) => value.toFixed(1),
            ),
            cell(
              own,
              (result) => (seconds === undefined ? undefined : seconds / result.seconds),
              (value) => value.toFixed(2),
            ),
          ];
        }),
      ),
      note: shapeNote(runs[0]),
    };
    const chart = (name: string, title: string, label: string, value: (result: MrbpResult) => number): Chart => ({
      name,
      title,
      x: { label: "horizon, segments", scale: "log" },
      y: { label, scale: "linear" },
      series: methods.map((method) => ({
        name: method,
        points: horizons.map((horizon) => [horizon, mean(valuesOf(of(method, horizon), value))] as const),
      })),
    });
    return [
      {
        title: "Peak memory and time of a window's gradient",
        text: growthOf(horizons, (horizon) => of("mrbp", horizon)),
        tables: [table, published],
        charts: [
          chart("mrbp-memory", "Peak memory above weights and tokens", "MiB", ({ peakBytes }) => peakBytes / MiB),
          chart("mrbp-time", "Time of one window's gradient", "milliseconds", ({ seconds }) => seconds * 1000),
        ],
      },
    ];
  },
});

function shapeNote(run: MrbpSettings | undefined): string {
  if (run === undefined) return "";
  const { layers, heads, width, memorySlots, segmentLength, batch, precision, device } = run;
  return `Decoder of ${layers} layers, ${heads} heads, width ${width}, ${memorySlots} slots; ${batch} rows of ${segmentLength} tokens; ${precision}, ${device}; one segment a step of MRBP; gradient alone, without the optimizer's step.`;
}

/** What a segment more costs MRBP, in megabytes and in memories. */
function growthOf(
  horizons: readonly number[],
  of: (horizon: number) => ReturnType<Rows<MrbpSettings, MrbpResult>>[],
): string {
  const [first, last] = [horizons[0], horizons.at(-1)];
  if (first === undefined || last === undefined || first === last) return "Growth by horizon: not run.";
  const peak = (horizon: number): number => mean(valuesOf(of(horizon), ({ peakBytes }) => peakBytes)),
    growth = peak(last) - peak(first),
    memory = mean(valuesOf(of(last), ({ memoryBytes }) => memoryBytes));
  if (!Number.isFinite(growth)) return "Growth by horizon: not run.";
  return `From horizon ${first} to ${last} MRBP's peak grows by ${(growth / MiB).toFixed(1)} MiB: ${(growth / (last - first) / memory).toFixed(2)} memories of ${(memory / 2 ** 10).toFixed(0)} KiB a segment.`;
}
