/**
 * What a memory is worth: models trained with it and their twins without, on the same data in the same order, each at
 * its best rate.
 *   npm run bench -- worth [--shape small-16] [--data tinyshakespeare:DIR | TRAIN.tokens,VALID.tokens] [--variants
 *   plain,zero+slow]
 *     [--rates 1e-3,2e-3] [--seeds 0,1] [--sides memory,twin] [--tokens 2e6] [--lanes 16] [--depth TOKENS] [--cut
 *     TOKENS] [--minutes 30] [--jobs 1] [--device auto | cuda:0,cuda:1] [--precision bfloat16] [--rows FILE] [--plot
 *     FILE] [--name worth]
 * A run whose row is in the file of rows is not made again. Variants are those of lib/experiments/worth/variants.ts.
 * Target: the best variant's memory pays.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { cpus } from "node:os";
import { modelConfig, trainSchema, type DeviceName } from "../lib/index.ts";
import { choice, flag, report, wholeWord, words } from "./support/report.ts";
import { makeAll } from "../lib/experiments/jobs.ts";
import { keyOf, plan, type Experiment, type Run, type Side } from "../lib/experiments/worth/plan.ts";
import { plot } from "./worth-plot.ts";
import { rowsOf } from "../lib/experiments/worth/rows.ts";
import { shapes } from "../lib/experiments/worth/shapes.ts";
import { lineOf, mean, natsOf, pairsOf } from "../lib/experiments/worth/summary.ts";
import type { Row } from "../lib/experiments/worth/train-and-score.ts";
import { optionsOf } from "../lib/experiments/worth/variants.ts";

export async function worth(flags: readonly string[]): Promise<boolean> {
  const began = performance.now(),
    numbers = (name: string, fallback: readonly string[]): number[] => words(flags, name, fallback).map(Number);
  const [shape] = choice(flags, "shape", Object.keys(shapes), ["small-16"]),
    data = wholeWord(flags, "data", "moby-dick");
  const experiment: Experiment = {
    shape: shape!,
    data,
    variants: words(flags, "variants", ["plain", "default"]),
    rates: numbers("rates", ["1e-3", "2e-3", "4e-3"]),
    seeds: numbers("seeds", ["0"]),
    sides: choice<Side>(flags, "sides", ["memory", "twin"], ["memory", "twin"]),
    tokens: flag(flags, "tokens", 1e6),
    lanes: flags.includes("--lanes") ? flag(flags, "lanes", 1) : undefined,
    depth: flag(flags, "depth", 0),
    cut: flag(flags, "cut", 0),
    precision: words(flags, "precision", ["float32"])[0]!,
  };
  experiment.variants.forEach(optionsOf); // a mistyped one is refused before the first run
  const [name = "worth"] = words(flags, "name", ["worth"]),
    file = wholeWord(flags, "rows", `bench/results/${name}.jsonl`);
  const jobs = flag(flags, "jobs", 1),
    deadline = began + 60_000 * flag(flags, "minutes", 1e4);
  const rows = existsSync(file) ? rowsOf(readFileSync(file, "utf8")) : new Map<string, Row>(),
    runs = plan(experiment).filter((run) => !rows.has(keyOf(run)));
  mkdirSync(dirname(file), { recursive: true });
  console.log(`${runs.length} of ${plan(experiment).length} runs to make`);
  const unmade = await makeAll<Run, Row>(runs, {
    worker: new URL("worth-worker.ts", import.meta.url),
    jobs,
    deadline,
    kill: true,
    devices: words(flags, "device", ["auto"]) as DeviceName[],
    threads: jobs === 1 ? 0 : Math.max(1, Math.floor(cpus().length / jobs)),
    onRow: (row) => {
      rows.set(row.key, row);
      appendFileSync(file, `${JSON.stringify(row)}\n`);
      console.log(
        `${labelOf(row.run)}: ${row.error ?? natsOf(row.scores).toFixed(4)} nats, ${Math.round(row.seconds)} s, ${Math.round(row.tokensPerSecond)} tok/s`,
      );
    },
    onFailure: (run, failure) => {
      console.error(`${labelOf(run)} failed: ${failure}`);
    },
  });
  if (unmade.length > 0) console.log(`no time for ${unmade.length} runs: the same command makes them`);
  const pairs = pairsOf(experiment, rows);
  if (pairs.length === 0) return false;
  const title = `Worth of the memory at ${shape}, ${experiment.tokens / 1e6} M tokens of ${data}, nats a token (rates, nats, seconds: memory, then twin)`;
  report(name, title, pairs.map(lineOf));
  const picture = wholeWord(flags, "plot", `bench/results/${name}.svg`);
  writeFileSync(picture, plot(title, pairs));
  return Math.max(...pairs.map((pair) => mean(pair.worth))) > 0;
}

/** A run by what differs from its shape and from the defaults. */
function labelOf({ shape, side, model, train, rate, seed }: Run): string {
  const of = shapes[shape]!,
    usual: Record<string, unknown> = { ...modelConfig(of.model), ...trainSchema.parse(of.train) };
  const differing = Object.entries({ ...model, ...train }).filter(
    ([key, value]) => key !== "memory" && usual[key] !== value,
  );
  return `${shape} ${side} ${differing.map(([key, value]) => `${key}=${value}`).join("+") || "default"} rate ${rate} seed ${seed}`;
}
