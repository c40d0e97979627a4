/**
 * Training tokens a second on one GPU, in bfloat16, beside the careful PyTorch program of bench/peers, as it is and
 * with torch.compile, hand-captured CUDA graphs, and both. Same weights and tokens on both sides: a row counts only if
 * the losses and the gradient norm of the first window agree. Both sides: inputs on the GPU before, windows back to
 * back, clipping, fused AdamW.
 *   [--quick] [--batches 1,16,64] [--configurations wiki,mnist] [--peers eager,compile,graphs,graphs+compile]
 *   [--methods mrbp,bptt,checkpointing] [--windows 20] [--warmup 5] [--peak FLOP/s]
 *   [--segments-per-step N] [--micro-batch N]: segments and rows a step of ours, else as many as the model thinks best,
 *   and all [--unrecorded]: ours without CUDA graphs
 *   [--name cuda]: of the file in bench/results
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  gradientMethods,
  type GradientMethodName,
  isMemformerError,
  Memformer,
  type ModelConfig,
  trimMemory,
} from "../lib/index.ts";
import { check, type Agreement } from "./support/agreement.ts";
import { configurations } from "./support/configurations.ts";
import { peakRate, windowFlops } from "./support/flops.ts";
import { runPeers, writeWindow, type PeerRequest, type PeerRow } from "./support/peers.ts";
import { timePipeline, type Timing } from "./support/pipeline.ts";
import { choice, flag, quartiles, report, type Row } from "./support/report.ts";
import { type Cut, cutFlags, disposeWindow, randomSegments, resident, segmentsAStep } from "./support/window.ts";

const modes = ["eager", "compile", "graphs", "graphs+compile"] as const;
type Mode = (typeof modes)[number];

/** One row of the table to be: ours or a peer's. */
interface Measured {
  readonly configuration: string;
  readonly batch: number;
  readonly program: string;
  readonly method: GradientMethodName;
  readonly config: ModelConfig;
  readonly horizon: number;
  /** Of MRBP: how many segments go back together. */
  readonly segmentsPerStep: number;
  /** How many rows go forward and back at once. */
  readonly rows: number;
  /** Quartiles of tokens a second; undefined where it ran out of memory. */
  readonly rate?: readonly [number, number, number];
  readonly peakBytes?: number;
  /** Why there is no row, where it is not memory. */
  readonly failure?: string;
  readonly first?: Agreement;
  readonly ours?: Timing;
}

interface Plan {
  readonly folder: string;
  readonly batches: readonly number[];
  readonly methods: readonly GradientMethodName[];
  readonly peers: readonly Mode[];
  readonly warmup: number;
  readonly windows: number;
  readonly cut: Cut;
  readonly recorded: boolean;
}

export async function cuda(flags: readonly string[]): Promise<boolean> {
  const quick = flags.includes("--quick"),
    methodNames = Object.keys(gradientMethods) as GradientMethodName[];
  const folder = mkdtempSync(join(tmpdir(), "memformer-bench-"));
  const sizes = Array.from({ length: 1024 }, (_, i) => String(i + 1));
  const plan: Plan = {
    folder,
    batches: choice(flags, "batches", sizes, quick ? ["1", "16"] : ["1", "16", "64"]).map(Number),
    methods: choice(flags, "methods", methodNames, quick ? ["mrbp"] : ["mrbp", "bptt", "checkpointing"]),
    peers: choice(flags, "peers", modes, quick ? ["eager", "graphs"] : modes),
    warmup: flag(flags, "warmup", 5),
    windows: flag(flags, "windows", quick ? 10 : 20),
    cut: cutFlags(flags),
    recorded: !flags.includes("--unrecorded"),
  };
  const names = choice(flags, "configurations", Object.keys(configurations), Object.keys(configurations));
  const rows: Row[] = [],
    facts: Record<string, string | number> = {
      "windows, at least": plan.windows,
      warmup: plan.warmup,
      precision: "bfloat16",
    };
  let sound = true;
  try {
    for (const name of names) {
      const measured = await measureOurs(name, plan);
      try {
        for await (const { row, measured: peer } of measurePeers(name, plan, measured[0]!.config)) {
          if (row.error === undefined)
            Object.assign(facts, { device: row.deviceName, torch: row.torch, cuda: row.cuda });
          measured.push(peer);
        }
      } catch (error) {
        console.error(`${name}: ${(error as Error).message}`);
        sound = false;
      }
      const peak = flag(flags, "peak", peakRate(String(facts["device"])) ?? NaN);
      for (const batch of plan.batches) {
        const group = measured.filter((row) => row.batch === batch);
        const { kept, complaints } = agreeing(group);
        complaints.forEach((complaint) => {
          console.error(complaint);
        });
        sound &&= complaints.length === 0;
        rows.push(...kept.map((row) => tableRow(row, kept, peak)));
        facts["peak TFLOP/s"] = peak / 1e12;
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  if (rows.length === 0) throw new Error("no row to show: nothing that was measured agrees");
  const at = flags.indexOf("--name");
  report(at < 0 ? "cuda" : (flags[at + 1] ?? "cuda"), "Training on one GPU, tokens a second", rows, facts);
  return sound;
}

/** Our rows; weights and windows are left in files for the peers. */
async function measureOurs(name: string, plan: Plan): Promise<Measured[]> {
  const { horizon, ...options } = configurations[name]!,
    weights = join(plan.folder, name),
    rows: Measured[] = [];
  {
    await using model = await Memformer.create({ ...options, precision: "bfloat16", device: "cuda" });
    await model.save(weights);
  }
  for (const batch of plan.batches)
    for (const method of plan.methods) {
      await using model = await Memformer.load(weights, { device: "cuda" }); // anew: training has moved the weights
      const { config } = model,
        segments = randomSegments(model, batch, horizon, false),
        window = resident(model, segments);
      await writeWindow(join(plan.folder, `${name}-${batch}.safetensors`), segments);
      const segmentsPerStep = method === "mrbp" ? segmentsAStep(model, window, plan.cut) : 1,
        rowsAStep = Math.min(batch, plan.cut.microBatch ?? batch);
      model.captureGraphs(plan.recorded);
      const row = {
        configuration: name,
        batch,
        program: "memformer",
        method,
        config,
        horizon,
        segmentsPerStep,
        rows: rowsAStep,
      };
      try {
        const ours = await timePipeline(model, window, {
          method,
          warmup: plan.warmup,
          windows: plan.windows,
          traced: method === "mrbp",
          cut: plan.cut,
        });
        const rate = quartiles(ours.seconds.map((seconds) => (batch * config.segmentLength * horizon) / seconds));
        rows.push({ ...row, rate, peakBytes: ours.peakBytes, first: ours, ours });
        const { refusal } = await model.capturedGraphs();
        if (plan.recorded && refusal !== "")
          console.error(`${name}, batch ${batch}: steps are not recorded: ${refusal}`);
      } catch (error) {
        if (!isMemformerError(error) || error.code !== "ERR_MEMFORMER_OUT_OF_MEMORY") throw error;
        rows.push(row);
      }
      say(rows.at(-1)!);
      disposeWindow(window);
      await model.dispose();
      trimMemory();
    }
  return rows;
}

async function* measurePeers(
  name: string,
  plan: Plan,
  config: ModelConfig,
): AsyncGenerator<{ row: PeerRow; measured: Measured }> {
  const { horizon } = configurations[name]!,
    { folder, warmup, windows } = plan;
  const asked = plan.batches.flatMap((batch) => [
    ...plan.peers.map((mode) => ({ batch, mode, method: "mrbp" as const })),
    ...plan.methods.filter((method) => method !== "mrbp").map((method) => ({ batch, mode: "eager" as const, method })),
  ]);
  const requests = asked.map(({ batch, mode, method }): PeerRequest => ({
    batch,
    horizon,
    method,
    precision: "bfloat16",
    compile: mode.includes("compile"),
    graphs: mode.includes("graphs"),
    warmup,
    windows,
    config: join(folder, name, "config.json"),
    weights: join(folder, name, "model.safetensors"),
    window: join(folder, `${name}-${batch}.safetensors`),
  }));
  let i = 0;
  for await (const row of runPeers(folder, requests)) {
    const { batch, mode, method } = asked[i++]!;
    const base = {
      configuration: name,
      batch,
      program: `PyTorch ${mode}`,
      method,
      config,
      horizon,
      segmentsPerStep: 1,
      rows: batch,
    };
    const measured: Measured =
      row.error === "out of memory"
        ? base
        : row.error !== undefined
          ? { ...base, failure: row.error }
          : {
              ...base,
              rate: [row.tokensPerSecondIqr[0], row.tokensPerSecond, row.tokensPerSecondIqr[1]],
              peakBytes: row.peakBytes,
              first: row,
            };
    say(measured);
    yield { row, measured };
  }
}

/** The rows whose first window is that of the plainest peer, which needs one; and what is wrong with the others. */
function agreeing(group: readonly Measured[]): { kept: Measured[]; complaints: string[] } {
  const where = (row: Measured): string => `${row.configuration}, batch ${row.batch}, ${row.program}, ${row.method}`;
  const truth = group.find((row) => row.program !== "memformer" && row.first !== undefined);
  if (truth === undefined)
    return { kept: [], complaints: group.map((row) => `${where(row)}: no peer's row to agree with`) };
  const kept: Measured[] = [],
    complaints: string[] = [];
  for (const row of group) {
    const found =
      row.failure !== undefined ? [row.failure] : row.first === undefined ? [] : check(row.first, truth.first!);
    if (found.length === 0) kept.push(row);
    complaints.push(...found.map((words) => `${where(row)}: ${words}`));
  }
  return { kept, complaints };
}

/** `peak`: FLOP/s of the device, NaN where nobody knows it. */
function tableRow(measured: Measured, group: readonly Measured[], peak: number): Row {
  const { configuration, batch, program, method, config, horizon, segmentsPerStep, rows, rate, peakBytes, ours } =
    measured;
  const windows = rate?.map((tokens) => tokens / (batch * config.segmentLength * horizon)),
    flops = windowFlops(config, batch, horizon, method, segmentsPerStep);
  const best = Math.max(
    ...group.filter((row) => row.program !== "memformer" && row.method === method).map((row) => row.rate?.[1] ?? 0),
  );
  const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);
  return {
    configuration,
    batch,
    program,
    method,
    "rows a step": rows,
    "segments a step": method === "mrbp" ? segmentsPerStep : "",
    "tok/s": rate === undefined ? "out of memory" : Math.round(rate[1]),
    IQR: rate === undefined ? "" : `${Math.round(rate[0])} to ${Math.round(rate[2])}`,
    "ms a window": windows === undefined ? "" : (1000 / windows[1]!).toFixed(2),
    "peak MiB": peakBytes === undefined ? "" : Math.round(peakBytes / 2 ** 20),
    "of the peak rate":
      windows === undefined || Number.isNaN(peak) ? "" : `${((100 * flops * windows[1]!) / peak).toFixed(1)} %`,
    "to the best peer": ours === undefined || best === 0 ? "" : (rate![1] / best).toFixed(2),
    "GPU busy": ours?.busy === undefined ? "" : `${(100 * ours.busy).toFixed(1)} %`,
    "JavaScript busy":
      ours === undefined ? "" : `${((100 * sum(ours.enqueueSeconds)) / sum(ours.seconds)).toFixed(1)} %`,
    "event loop late by, p99 ms": ours === undefined ? "" : (1000 * ours.loop.p99Seconds).toFixed(2),
    "at most, ms": ours === undefined ? "" : (1000 * ours.loop.mostSeconds).toFixed(2),
    "of samples": ours === undefined ? "" : ours.loop.samples,
  };
}

/** A row on its way, for a run that is cut off. */
function say({ configuration, batch, program, method, rate, peakBytes, failure }: Measured): void {
  const words =
    rate === undefined
      ? (failure ?? "out of memory")
      : `${Math.round(rate[1])} tok/s, peak ${Math.round(peakBytes! / 2 ** 20)} MiB`;
  console.log(`${configuration}, batch ${batch}, ${program}, ${method}: ${words}`);
}
