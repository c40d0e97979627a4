/** `memformer train`: text in, a run's folder out. */
import { join } from "node:path";
import type { Command } from "commander";
import { CheckpointStore } from "../checkpoint/folder.ts";
import { withIoErrors } from "../checkpoint/io-error.ts";
import { makeFolder } from "../checkpoint/make-folder.ts";
import { openTokenizer, TokenStream, type Dataset } from "../data/index.ts";
import { isMemformerError, MemformerError } from "../errors.ts";
import { formatBytes, formatNumber } from "../log/format.ts";
import { createProgress, type Progress } from "../log/progress.ts";
import { RunLog } from "../log/run-log.ts";
import { Memformer } from "../model.ts";
import { runtime } from "../runtime.ts";
import { Trainer, type RunOptions } from "../train.ts";
import { trainSchema } from "../train-config.ts";
import { evaluateSource } from "./held-out.ts";
import { catchInterrupts, type Interruption } from "./interrupt.ts";
import { CHECKPOINTS, MODEL, saveModel, tokenizerText, writeRun } from "./model-folder.ts";
import { addOptions } from "./options.ts";
import { fromFlags, runSchema, shapeSchema, type Given, type RunSettings } from "./run-config.ts";
import { openRunData } from "./run-data.ts";
import { runSettings } from "./run-settings.ts";
import { reportStep } from "./step-report.ts";

/** By then every shape of a run has been met twice. */
const STEPS_TO_RECORD = 4;

/** Adds `memformer train`; its exit code is 129, 130 or 143 when a signal ended it. */
export function register(program: Command): void {
  const command = program
    .command("train")
    .description("train a model by memory replay back-propagation")
    .argument(
      "[file]",
      "a JSON file of the options below: {data, lanes, …, model: {…}, train: {…}}; options given here win",
    )
    .option("--resume", "go on from the last checkpoint of the run in --out, with the settings it has");
  addOptions(command, runSchema, "Run");
  addOptions(command, shapeSchema, "Model");
  addOptions(command, trainSchema, "Training");
  command.action(
    async (file: string | undefined, { resume = false, ...flags }: { resume?: boolean } & Record<string, unknown>) => {
      const interruption = catchInterrupts();
      try {
        await train(await runSettings(file, flags, resume), resume, interruption);
      } catch (error) {
        const abandoned = isMemformerError(error) && error.code === "ERR_MEMFORMER_ABORTED";
        if (!abandoned || interruption.exitCode === undefined) throw error;
      } finally {
        interruption.release();
      }
      if (interruption.exitCode !== undefined) process.exitCode = interruption.exitCode;
    },
  );
}

async function train(
  { run, model: shape, train: options }: RunSettings,
  resume: boolean,
  interruption: Interruption,
): Promise<void> {
  const store = new CheckpointStore(join(run.out, CHECKPOINTS));
  const last = await store.last();
  const start = resume ? ((await store.list()).find(({ folder }) => folder === last)?.step ?? 0) : 0;
  if (!resume && last !== undefined) {
    throw new MemformerError(
      "CONFIG",
      `${run.out} holds a run already: go on with it by --resume, or choose another --out`,
      { details: { out: run.out } },
    );
  }
  await using data = await openRunData(run, await openTokenizer(run.tokenizer), interruption.signal);
  const { vocabulary, bos } = data.tokenizer;
  await using model = await Memformer.create({
    preset: run.preset,
    ...shape,
    vocabulary,
    bos,
    seed: options.seed,
    threads: run.threads,
    device: run.device,
  });
  runtime({ tf32: run.tf32, deterministic: run.deterministic });
  const stream = new TokenStream(data.train, {
    lanes: run.lanes,
    segment: model.config.segment,
    seed: options.seed,
    ends: run.ends,
    ...(run.documentLimit !== undefined && { documentLimit: run.documentLimit }),
  });
  const trainer = new Trainer(model, options);
  const settled: Given = { run, model: fromFlags(model.config).model, train: trainer.config };
  await withIoErrors("make", run.out, () => makeFolder(run.out));
  await writeRun(run.out, settled);

  const total = Math.max(options.steps, start);
  const progress = createProgress({ label: "train", total, start });
  const log = await RunLog.open(run.out, {
    resumeAfter: start,
    tensorboard: run.tensorboard,
    onFailure: ({ message }) => {
      progress.note(`${message}; training goes on, what is to be logged waits until it can be written`);
    },
  });
  progress.note(
    `${data.spec}: ${data.train.tokens} tokens to train on${data.notes.map((note) => `; ${note}`).join("")}`,
  );
  const [size, state] = [`${formatNumber(model.size / 1e6, 3)} M parameters`, formatBytes(model.stateBytes)];
  const whence = start > 0 ? `; resumed after step ${start}` : "";
  progress.note(`${model.config.variant}, ${size}, memory of ${state} a document${whence}`);
  interruption.signal.addEventListener("abort", () => {
    trainer.stop();
    progress.note("finishing this step, then a checkpoint; press Ctrl-C again to end at once");
  });
  if (interruption.signal.aborted) throw new MemformerError("ABORTED", "stopped before the first step");
  try {
    const tokenizer = await tokenizerText(data.tokenizer);
    const steps = trainer.run(stream, {
      checkpoints: store.root,
      resume,
      ...(tokenizer !== undefined && { tokenizer }),
      ...(options.evaluateEvery > 0 && { evaluate: heldOutScore(data, run) }),
    });
    for await (const step of steps) {
      reportStep(step, data.train, log, progress);
      if (step.step === start + STEPS_TO_RECORD) await noteRefusal(model, progress);
    }
  } finally {
    progress.stop();
    log.close();
  }
  if (trainer.step < options.steps) {
    process.stderr.write(
      `Stopped after step ${trainer.step} of ${options.steps}. Go on with: memformer train --resume --out ${run.out}\n`,
    );
    return;
  }
  await saveModel(model, data.tokenizer, settled, join(run.out, MODEL));
  process.stdout.write(`${join(run.out, MODEL)}\n`); // for show: the run is whole, whether this is read or not
}

/** Says why steps run one kernel at a time, where a GPU's are not recorded. */
async function noteRefusal(model: Memformer, progress: Progress): Promise<void> {
  const { refusal } = await model.recording();
  if (refusal !== "") progress.note(`steps cannot be recorded and run kernel by kernel: ${refusal}`);
}

function heldOutScore(data: Dataset, run: RunSettings["run"]): NonNullable<RunOptions["evaluate"]> {
  const source = data.valid; // throws here, before the first step, if there is none
  return async (model, _step, signal) => {
    const { bitsPerByte } = await evaluateSource(model, source, data.tokenizer, {
      lanes: run.lanes,
      segments: run.evaluateSegments,
      ablations: [],
      signal,
    });
    return bitsPerByte;
  };
}
