/**
 * Makes the runs of an experiment that have no row yet, one after the other or side by side, and writes its report:
 * after every row, so that it is there whenever the work is stopped.
 */
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isMemformerError, MemformerError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { takeLock } from "../files/lock.ts";
import { makeFolder } from "../files/make-folder.ts";
import { withIoErrors } from "../io-error.ts";
import { resolveDevice, type DeviceName } from "../native/cuda.ts";
import type { Budget, Experiment, Result, Row, Settings } from "./experiment.ts";
import { machineOf } from "./machine.ts";
import { svg } from "./report/chart.ts";
import { page, type Report } from "./report/page.ts";
import { figurePng } from "./report/png.ts";
import { keyOf, RowFile, shortKey } from "./rows.ts";
import { sideBySide } from "./side-by-side.ts";

export interface ExperimentOptions {
  /** The folder of rows.jsonl, report.html, figures/ and unfinished runs. */
  readonly out: string;
  readonly budget: Budget;
  readonly seeds: readonly number[];
  readonly device: DeviceName;
  /** Several, all GPUs or all CPUs: runs side by side, in a process for each, in place of `device`. */
  readonly devices?: readonly DeviceName[] | undefined;
  readonly data?: string | undefined;
  readonly tokenizer?: string | undefined;
  /** No run is begun after so many minutes, or where one as long as the longest so far would end later. */
  readonly minutes?: number | undefined;
  /** Makes those runs alone whose settings, as JSON, contain this text; the report is of all. */
  readonly only?: string | undefined;
  /** Ends the run that is under way; its checkpoint, if it has one, is what the next call goes on from. */
  readonly signal?: AbortSignal | undefined;
  readonly note?: ((text: string) => void) | undefined;
}

/** The report, and what is left to be run. */
export interface Outcome extends Report {
  /** The page. */
  readonly path: string;
  readonly left: number;
}

/**
 * Runs what `options.out` has no row of. A loss that is not a number and memory that does not suffice make a row that
 * says so; every other failure of a run rejects, and the rows before it stay. Rejects with MemformerError DATA for data
 * that is not there, CONFIG for `only` that is in no run's settings, BUSY when another process works in the folder, IO.
 */
export async function runExperiment(experiment: Experiment, options: ExperimentOptions): Promise<Outcome> {
  const { out, note = (): void => undefined, signal } = options,
    devices = devicesOf(options);
  await withIoErrors("make", out, () => makeFolder(out));
  const release = await withIoErrors("lock", out, () => takeLock(join(out, ".lock"), { patience: 0 }));
  try {
    const file = await RowFile.open(join(out, "rows.jsonl")),
      runs = await planned(experiment, options);
    const asked = chosen(experiment, runs, options.only),
      missing = asked.filter((run) => file.find(experiment.name, run) === undefined);
    if (asked.length < runs.length) note(`${asked.length} of ${runs.length} runs are asked for`);
    if (missing.length < asked.length)
      note(`${asked.length - missing.length} of ${asked.length} runs are there already`);
    const deadline = performance.now() + 60_000 * (options.minutes ?? Infinity);
    let outcome = await report(experiment, options, runs, file);
    const keep = async (row: Row): Promise<void> => {
      await file.append(row);
      await rm(checkpointsOf(out, experiment.name, row.settings), { recursive: true, force: true });
      outcome = await report(experiment, options, runs, file);
    };
    if (devices.length > 1) await sideBySide(experiment, missing, { ...options, devices }, deadline, keep);
    else {
      let longest = 0;
      for (const settings of missing) {
        if (signal?.aborted === true || performance.now() + longest > deadline) break;
        const began = performance.now();
        note(`run ${outcome.rows.length + 1} of ${runs.length}: ${JSON.stringify(settings)}`);
        const row = await made(experiment, settings, options, note);
        if (row === undefined) break;
        longest = Math.max(longest, performance.now() - began);
        await keep(row);
      }
    }
    await figuresAsPng(outcome, join(out, "figures"));
    return outcome;
  } finally {
    await release();
  }
}

/** Where to compute, at least one. Throws MemformerError CONFIG for GPUs and CPUs together, NO_CUDA. */
function devicesOf({ device, devices = [device] }: ExperimentOptions): readonly [DeviceName, ...DeviceName[]] {
  const [first = device, ...others] = devices;
  if (new Set([first, ...others].map(kindOf)).size > 1) {
    const found = devices.join(",");
    throw new MemformerError("CONFIG", `devices must be all GPUs or all CPUs, got "${found}"`, {
      details: { argument: "devices", got: found },
    });
  }
  return [first, ...others];
}

function kindOf(device: DeviceName): "cpu" | "cuda" {
  return resolveDevice(device) === "cpu" ? "cpu" : "cuda";
}

/** Every run once. */
async function planned(experiment: Experiment, options: ExperimentOptions): Promise<Settings[]> {
  const { out, budget, seeds, data, tokenizer } = options,
    [device] = devicesOf(options);
  const runs = await experiment.plan({
    budget,
    seeds,
    data,
    tokenizer,
    device: kindOf(device),
    folder: join(out, "data"),
  });
  return [...new Map(runs.map((run) => [keyOf(experiment.name, run), run])).values()];
}

/** Those whose settings contain the text. */
function chosen({ name }: Experiment, runs: Settings[], only: string | undefined): Settings[] {
  if (only === undefined) return runs;
  const found = runs.filter((run) => JSON.stringify(run).includes(only));
  if (found.length > 0) return found;
  throw new MemformerError(
    "CONFIG",
    `no run of ${name} has settings that contain ${JSON.stringify(only)}; those of the first are ${JSON.stringify(runs[0])}`,
    { details: { argument: "only", got: only } },
  );
}

/** What is a finding, not a fault: the same run would end so again. */
const rowErrors: ReadonlySet<string> = new Set(["ERR_MEMFORMER_NAN_LOSS", "ERR_MEMFORMER_OUT_OF_MEMORY"]);

/** Undefined when the signal ended it. */
export async function made(
  experiment: Experiment,
  settings: Settings,
  { out, device, data, tokenizer, signal }: Pick<ExperimentOptions, "out" | "device" | "data" | "tokenizer" | "signal">,
  note: (text: string) => void,
): Promise<Row | undefined> {
  const began = performance.now();
  let result: Result | undefined, error: string | undefined;
  try {
    const checkpoints = checkpointsOf(out, experiment.name, settings);
    const folder = join(out, "data");
    result = await experiment.run(settings, { data, tokenizer, device, folder, checkpoints, signal, note });
  } catch (failure) {
    const ended = isMemformerError(failure) && failure.code === "ERR_MEMFORMER_ABORTED";
    if (signal?.aborted === true && (ended || failure === signal.reason)) return undefined;
    if (!isMemformerError(failure) || !rowErrors.has(failure.code)) throw failure;
    error = failure.message;
  }
  return {
    experiment: experiment.name,
    settings,
    ...(result !== undefined && { result }),
    ...(error !== undefined && { error }),
    seconds: (performance.now() - began) / 1000,
    machine: machineOf(device),
  };
}

function checkpointsOf(out: string, name: string, settings: Settings): string {
  return join(out, "unfinished", shortKey(keyOf(name, settings)));
}

/** Writes report.html, and in figures/ NAME.svg and the pictures. */
async function report(
  experiment: Experiment,
  { out, budget }: ExperimentOptions,
  runs: readonly Settings[],
  file: RowFile,
): Promise<Outcome> {
  const rows = runs.flatMap((run) => file.find(experiment.name, run) ?? []),
    sections = experiment.report(runs, (settings) => file.find(experiment.name, settings));
  const written: Report = { experiment, budget, sections, rows, planned: runs.length },
    path = join(out, "report.html"),
    figures = join(out, "figures");
  await writeFileAtomic(path, (handle) => handle.writeFile(page(written)));
  await withIoErrors("write", figures, async () => {
    await makeFolder(figures);
    for (const chart of sections.flatMap(({ charts = [] }) => charts))
      await writeFile(join(figures, `${chart.name}.svg`), `${svg(chart)}\n`);
    for (const { name, png } of sections.flatMap(({ pictures = [] }) => pictures))
      await writeFile(join(figures, `${name}.png`), Buffer.from(png, "base64"));
  });
  return { ...written, path, left: runs.length - rows.length };
}

/** Once, at the end: figures/NAME.png beside NAME.svg, where that can be made. */
async function figuresAsPng({ sections }: Report, figures: string): Promise<void> {
  await withIoErrors("write", figures, async () => {
    for (const chart of sections.flatMap(({ charts = [] }) => charts)) {
      const png = await figurePng(svg(chart));
      if (png === undefined) return;
      await writeFile(join(figures, `${chart.name}.png`), png);
    }
  });
}

/** `0,1,2`: seeds of runs. Throws MemformerError CONFIG for anything else. */
export function seedsOf(text: string): number[] {
  const seeds = text.split(",").map((word) => (/^\s*\d+\s*$/.test(word) ? Number(word) : NaN));
  if (seeds.every(Number.isSafeInteger)) return [...new Set(seeds)];
  throw new MemformerError("CONFIG", `seeds must be whole numbers separated by commas, got "${text}"`, {
    details: { seeds: text },
  });
}
