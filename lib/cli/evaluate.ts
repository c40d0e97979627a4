/** `memformer evaluate`: how well a model predicts text, and what its memory has to do with it. */
import type { Command } from "commander";
import { z } from "zod";
import type { Dataset, Tokenizer } from "../data/index.ts";
import type { Score } from "../evaluate.ts";
import { formatDuration, formatNumber } from "../log/format.ts";
import { evaluateSource } from "./held-out.ts";
import { catchInterrupts } from "./interrupt.ts";
import { findModel, openModel, runOf } from "./model-folder.ts";
import { addOptions, pick } from "./options.ts";
import { fromFlags, runSchema, settle, type Given, type RunSettings } from "./run-config.ts";
import { openRunData } from "./run-data.ts";
import { table } from "./table.ts";

const dataSchema = runSchema.pick({
  data: true,
  tokenizer: true,
  lanes: true,
  documents: true,
  skipEmpty: true,
  heldOut: true,
  threads: true,
  tokenizeThreads: true,
});
const passSchema = z.strictObject({
  split: z.enum(["train", "valid", "test"]).default("valid").describe("the split to read"),
  segments: z.int().positive().optional().describe("segments to read; default: to the end"),
  device: runSchema.shape.device,
  json: z.boolean().default(false).describe("print JSON"),
});

/** Adds `memformer evaluate`. */
export function register(program: Command): void {
  const command = program
    .command("evaluate")
    .description("bits per byte and perplexity of a model: whole, and with its memory zeroed, shuffled, frozen")
    .argument("<folder>", "a model, a checkpoint or a run; what its run was given is the default of the options");
  addOptions(command, dataSchema, "Data");
  addOptions(command, passSchema, "Pass");
  command.action(async (path: string, flags: Record<string, unknown>) => {
    const { split, segments, device, json } = passSchema.parse(pick(passSchema, flags));
    const folder = await findModel(path);
    const [before, given] = [await runOf(folder), fromFlags(flags)];
    const { run } = settle(...(before === undefined ? [] : [dataOf(before)]), given);
    const opened = await openModel(folder, {
      tokenizer: given.run["tokenizer"] as string | undefined,
      device,
      threads: run.threads,
    });
    await using model = opened.model;
    await using data = await openUnlessInterrupted(run, opened.tokenizer);
    if (data === undefined) return;
    const result = await evaluateSource(model, data.split(split), data.tokenizer, { lanes: run.lanes, segments });
    const { ablations, ...whole } = result;
    const facts = { model: folder, data: data.spec, split, lanes: run.lanes };
    if (json) {
      process.stdout.write(`${JSON.stringify({ ...facts, ...whole, ablations }, null, 2)}\n`);
      return;
    }
    const line = (name: string, { bitsPerByte, bitsPerToken, perplexity }: Score): string[] => [
      name,
      ...[bitsPerByte, bitsPerToken, perplexity].map((value) => formatNumber(value)),
    ];
    process.stdout.write(
      `${table([
        ["memory", "bits per byte", "bits per token", "perplexity"],
        line("whole", whole),
        ...Object.entries(ablations).map(([name, score]) => line(name, score)),
      ])}\n${whole.tokens} tokens, ${whole.bytes} bytes of ${data.spec} (${split}), ${formatDuration(whole.seconds)}\n`,
    );
  });
}

/** Of a run's settings, those that say what text is read. */
function dataOf({ run }: Given): Given {
  return { run: pick(dataSchema, run), model: {}, train: {} };
}

/** Opens the text. A signal ends that without litter: undefined then, and the exit code is the signal's. */
async function openUnlessInterrupted(
  run: RunSettings["run"],
  tokenizer: Tokenizer,
): Promise<Dataset | undefined> {
  const interruption = catchInterrupts();
  try {
    return await openRunData(run, tokenizer, interruption.signal);
  } catch (error) {
    if (interruption.exitCode === undefined) throw error;
    process.exitCode = interruption.exitCode;
    return undefined;
  } finally {
    interruption.release();
  }
}
