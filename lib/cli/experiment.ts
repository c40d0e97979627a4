/** `memformer experiment`: runs that test a claim of the paper, and a report of their rows. */
import { join } from "node:path";
import type { Command } from "commander";
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { configureRuntime } from "../engine/runtime.ts";
import type { DeviceName } from "../native/cuda.ts";
import { budgets } from "../experiments/experiment.ts";
import { experimentOf, experiments } from "../experiments/index.ts";
import { text } from "../experiments/report/page.ts";
import { runExperiment, seedsOf } from "../experiments/run.ts";
import { runSchema } from "../run/config.ts";
import { pick } from "../run/flags.ts";
import { catchInterrupts } from "../run/interrupt.ts";
import { addOptions } from "./options.ts";
import { print } from "./output.ts";

const schema = z.strictObject({
  budget: z
    .enum(budgets)
    .default("smoke")
    .describe("what it may cost: seconds on a CPU (smoke), minutes on a GPU (minutes), or what the claim needs (full)"),
  seeds: z.string().min(1).default("0").describe("seeds, comma-separated; each is a run of its own"),
  out: z
    .string()
    .min(1)
    .optional()
    .describe(
      "folder for rows.jsonl, report.html and figures; default: runs/experiments/NAME. A row that is there is not run again",
    ),
  data: z.string().min(1).optional().describe("what to read, where the experiment reads something (--list)"),
  tokenizer: z
    .string()
    .min(1)
    .optional()
    .describe("of an experiment that reads text: bytes (the default), gpt2, or the path of a tokenizer.json"),
  minutes: z.number().positive().optional().describe("begin no run that would probably end later"),
  only: z
    .string()
    .min(1)
    .optional()
    .describe("make those runs alone whose settings, as JSON, contain this text; the report is of all"),
  device: runSchema.shape.device,
  devices: z
    .string()
    .min(1)
    .optional()
    .describe("several, comma-separated, in place of device: runs side by side, in a process for each (cuda:0,cuda:1)"),
  threads: runSchema.shape.threads,
});

/** Adds `memformer experiment`; its exit code is 129, 130 or 143 when a signal ended it. */
export function register(program: Command): void {
  const command = program
    .command("experiment")
    .description(
      "test a claim of the paper: make the runs that have no row yet, then report all rows as tables and figures",
    )
    .argument("[name]", "one of --list")
    .option("--list", "list the experiments, what they show and what they read");
  addOptions(command, schema, "Experiment");
  command.action(async (name: string | undefined, { list = false, ...flags }: { list?: boolean }) => {
    if (list) {
      const lines = experiments.flatMap(({ name: of, title, claim, needs = "nothing" }) => [
        `${of}: ${title}`,
        `    the paper: ${claim}`,
        `    reads: ${needs}`,
      ]);
      await print(`${lines.join("\n")}\n`);
      return;
    }
    if (name === undefined) {
      const known = experiments.map((of) => of.name).join(", ");
      throw new MemformerError("CONFIG", `name an experiment: ${known}; --list says what they show`);
    }
    const experiment = experimentOf(name),
      { seeds, out, device, devices, threads, ...others } = schema.parse(pick(schema, flags));
    configureRuntime({ threads });
    const interruption = catchInterrupts();
    try {
      const outcome = await runExperiment(experiment, {
        ...others,
        seeds: seedsOf(seeds),
        out: out ?? join("runs", "experiments", name),
        device,
        devices: devices?.split(",").map((of) => of.trim() as DeviceName),
        signal: interruption.signal,
        note: (line) => process.stderr.write(`${line}\n`),
      });
      if (outcome.left > 0) process.stderr.write(`${outcome.left} runs are left: the same command makes them\n`);
      await print(`${text(outcome)}\n\n${outcome.path}\n`);
    } finally {
      interruption.release();
    }
    if (interruption.exitCode !== undefined) process.exitCode = interruption.exitCode;
  });
}
