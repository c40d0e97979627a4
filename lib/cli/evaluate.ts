/** `memformer evaluate`: how well a model predicts text, and what its memory has to do with it. */
import type { Command } from "commander";
import { z } from "zod";
import type { Dataset } from "../data/index.ts";
import type { Group } from "../distributed/group.ts";
import { MemformerError } from "../errors.ts";
import { ABLATIONS, type Ablation, type Evaluation, type Score } from "../evaluate/evaluate.ts";
import { formatDuration, formatNumber } from "../log/format.ts";
import { evaluateSource, type Scored } from "../evaluate/source.ts";
import type { Memformer } from "../model/memformer.ts";
import { weightsHash } from "../model/weights-hash.ts";
import type { DeviceName } from "../native/cuda.ts";
import { catchInterrupts } from "../run/interrupt.ts";
import { findModel, openModel, runOf } from "../run/run-folder.ts";
import { pick } from "../run/flags.ts";
import { addOptions } from "./options.ts";
import { print } from "./output.ts";
import { addRanksOptions, isRank, joinRanks, launchRanks, onceAHost, type RanksFlags } from "./ranks.ts";
import { fromFlags, runSchema, mergeSettings, type PartialRunConfig } from "../run/config.ts";
import { identityOfRun } from "../run/identity.ts";
import { openHeldOutOf } from "../run/text.ts";
import { table } from "./table.ts";
import { openTwin } from "./twin.ts";

export const dataSchema = runSchema.pick({
  data: true,
  tokenizer: true,
  lanes: true,
  documents: true,
  field: true,
  skipEmpty: true,
  heldOut: true,
  threads: true,
  tokenizeThreads: true,
});
export const passSchema = z.strictObject({
  split: z.enum(["train", "valid", "test"]).default("valid").describe("the split to read"),
  segments: z.int().positive().optional().describe("segments that each lane reads; default: to the end"),
  documentLimit: z
    .int()
    .positive()
    .optional()
    .describe("cut documents after this many tokens and restart the memory; default: never, whatever the run did"),
  ablations: z
    .string()
    .default(ABLATIONS.join(","))
    .describe("what to score in place of the memory, comma-separated, or none"),
  twin: z
    .string()
    .min(1)
    .optional()
    .describe("the same model trained with --no-memory, scored beside: what the memory is worth"),
  device: runSchema.shape.device,
  json: z.boolean().default(false).describe("print JSON"),
});

/** The meaning of each row of the table, and of its distance from "whole". */
const meanings: Record<Ablation | "whole" | "twin", string> = {
  whole: "the model with its memory",
  twin: "the model of --twin, trained without memory: what it loses is what the memory is worth",
  initial: "every segment starts from the learned initial memory: what a document's past adds for this model",
  zeroed: "every segment reads zeros, which it never met in training: dependence and shift, not worth",
  shuffled: "every segment reads the memory of another row's text: dependence on what the memory holds",
  frozen: "the memory stays as it was after the document's first segment of text: dependence on later updates",
};
const caution = "Ablations measure dependence. Only a twin trained without memory measures what the memory is worth.";

/** Adds `memformer evaluate`. */
export function register(program: Command): void {
  const command = program
    .command("evaluate")
    .description(
      `score a model in bits per byte and perplexity: whole, and with ${ABLATIONS.join(", ")} in place of its memory`,
    )
    .argument("<folder>", "a model, a checkpoint or a run; options default to what the run was given");
  addRanksOptions(command, ["score", "the lanes"]);
  addOptions(command, dataSchema, "Data");
  addOptions(command, passSchema, "Pass");
  command.addHelpText("after", `\nMemory:\n${meaningLines(["whole", "twin", ...ABLATIONS])}\n\n${caution}`);
  command.action(async (path: string, { gpus, processes, ...flags }: RanksFlags & Record<string, unknown>) => {
    const code = await launchRanks({ gpus, processes });
    if (code !== undefined) {
      process.exitCode = code;
      return;
    }
    const asked = await askedOf(path, flags);
    const device = processes === undefined ? asked.pass.device : "cpu";
    let group: Group | undefined;
    try {
      group = isRank() ? await joinRanks({ device, threads: asked.run.threads }) : undefined;
      await evaluateModel(asked, group?.device ?? device, group);
      await group?.leave();
    } catch (error) {
      throw group === undefined ? error : await group.fail(error);
    }
  });
}

/** What is asked for: the options, those left out as the model's run was given them. */
async function askedOf(path: string, flags: Record<string, unknown>) {
  const pass = passSchema.parse(pick(passSchema, flags)),
    found = await findModel(path);
  const [before, given] = [await runOf(found.folder), fromFlags(flags)];
  const { run } = mergeSettings(...(before === undefined ? [] : [dataOf(before)]), given);
  return { pass, found, before, given, run };
}

/** Scores a model, with several ranks each its part; the first prints. */
async function evaluateModel(
  { pass, found, before, given, run }: Awaited<ReturnType<typeof askedOf>>,
  device: DeviceName,
  group: Group | undefined,
): Promise<void> {
  const isFirst = group === undefined || group.rank === 0,
    { split, segments, documentLimit, ablations: names, json } = pass,
    { folder } = found;
  const options = { tokenizer: given.run["tokenizer"] as string | undefined, device, threads: run.threads },
    opened = await openModel(folder, options);
  await using model = opened.model;
  const twin = pass.twin === undefined ? undefined : await openTwin(pass.twin, { ...opened, ...found }, options);
  await using twinModel = twin?.model;
  const identity = await identityOfRun(folder),
    notes: string[] = [];
  await using data = await onceAHost(group, "the data", async () =>
    openUnlessInterrupted((signal) =>
      openHeldOutOf(identity, { run, before, given, split }, opened.tokenizer, notes, signal),
    ),
  );
  if (data === undefined) {
    await group?.fail(new MemformerError("ABORTED", "interrupted before the first segment"));
    return;
  }
  notes.push(...(twin?.notes ?? []));
  if (isFirst) for (const note of notes) process.stderr.write(`${note}\n`);
  const score = async (of: Memformer, ablations: readonly Ablation[]): Promise<Evaluation & Scored> => {
    await group?.agree("the weights' hash", await weightsHash(of));
    return evaluateSource(of, data.split(split), { lanes: run.lanes, segments, documentLimit, ablations, group });
  };
  const asked = (names === "none" ? [] : names.split(",").map((name) => name.trim())) as Ablation[],
    { ablations, ...whole } = await score(model, asked),
    without = twinModel === undefined ? undefined : await score(twinModel, []);
  if (!isFirst) return;
  const facts = { model: folder, step: found.step ?? null, data: data.spec, split, lanes: run.lanes, notes };
  if (json) {
    const beside =
      without === undefined
        ? {}
        : { twin: { ...scoreOf(without), model: twin!.folder }, worth: worthOf(whole, without) };
    await print(`${JSON.stringify({ ...facts, ...whole, ablations, ...beside }, null, 2)}\n`);
    return;
  }
  const line = (name: string, { bitsPerByte, bitsPerToken, perplexity }: Score): string[] => [
    name,
    ...[bitsPerByte, bitsPerToken, perplexity].map((value) => formatNumber(value)),
  ];
  await print(
    `${table([
      ["memory", "bits per byte", "bits per token", "perplexity"],
      line("whole", whole),
      ...(without === undefined ? [] : [line("twin", without)]),
      ...Object.entries(ablations).map(([name, score]) => line(name, score)),
    ])}\n${whole.tokens} tokens, ${whole.bytes} bytes of ${data.spec} (${split}), ${parts(whole)}, ` +
      `${found.step === undefined ? "" : `step ${found.step}, `}${formatDuration(whole.seconds)}\n${
        without === undefined ? "" : `the memory is worth ${worthInWords(worthOf(whole, without))}\n`
      }${explanation(Object.keys(ablations) as Ablation[], without !== undefined)}`,
  );
}

function scoreOf({ tokens, nats, perplexity, bitsPerToken, bitsPerByte, seconds }: Evaluation & Scored) {
  return { tokens, nats, perplexity, bitsPerToken, bitsPerByte, seconds };
}

/** How much better a model is than its twin. */
function worthOf(whole: Score, twin: Score): Pick<Score, "bitsPerByte" | "bitsPerToken"> {
  return {
    bitsPerByte: twin.bitsPerByte - whole.bitsPerByte,
    bitsPerToken: twin.bitsPerToken - whole.bitsPerToken,
  };
}

/** Text whose bytes are not known has no bits per byte. */
function worthInWords({ bitsPerByte, bitsPerToken }: ReturnType<typeof worthOf>): string {
  return Number.isNaN(bitsPerByte)
    ? `${formatNumber(bitsPerToken)} bits per token`
    : `${formatNumber(bitsPerByte)} bits per byte`;
}

/** What the rows below "whole" are; nothing where there are none. */
function explanation(ablations: readonly Ablation[], hasTwin: boolean): string {
  if (hasTwin) return `\n${meaningLines(["twin", ...ablations])}\n`;
  return ablations.length === 0 ? "" : `\n${meaningLines(ablations)}\n${caution}\n`;
}

function meaningLines(names: readonly (Ablation | "whole" | "twin")[]): string {
  return names.map((name) => `  ${name.padEnd(10)}${meanings[name]}`).join("\n");
}

/** `3 documents, none cut` */
function parts({ documents, cuts }: Scored): string {
  return `${documents} document${documents === 1 ? "" : "s"}, ${cuts === 0 ? "none cut" : `cut in ${cuts} place${cuts === 1 ? "" : "s"}`}`;
}

/** Of a run's settings, those that say what text is read. */
export function dataOf({ run }: PartialRunConfig): PartialRunConfig {
  return { run: pick(dataSchema, run), model: {}, train: {} };
}

/** Opens the text. A signal ends that without litter: undefined then, and the exit code is the signal's. */
async function openUnlessInterrupted(open: (signal: AbortSignal) => Promise<Dataset>): Promise<Dataset | undefined> {
  const interruption = catchInterrupts();
  try {
    return await open(interruption.signal);
  } catch (error) {
    if (interruption.exitCode === undefined) throw error;
    process.exitCode = interruption.exitCode;
    return undefined;
  } finally {
    interruption.release();
  }
}
