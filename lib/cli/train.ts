/** `memformer train`: text in, a run's folder out. */
import { join } from "node:path";
import type { Command } from "commander";
import { CheckpointStore } from "../checkpoint/store.ts";
import { withIoErrors } from "../io-error.ts";
import { makeFolder } from "../files/make-folder.ts";
import { AUXILIARY_TOKENS, openTokenizer, TokenStream, type Dataset } from "../data/index.ts";
import { isMemformerError, MemformerError } from "../errors.ts";
import { formatBytes, formatNumber } from "../log/format.ts";
import { createProgress, type Progress } from "../log/progress.ts";
import { RunLog } from "../log/run-log.ts";
import { Memformer } from "../model/memformer.ts";
import { takeLock } from "../files/lock.ts";
import type { Group } from "../distributed/group.ts";
import { configureRuntime } from "../engine/runtime.ts";
import { Trainer, type RunOptions } from "../train/trainer.ts";
import { trainSchema } from "../train/config.ts";
import { evaluateSource } from "../evaluate/source.ts";
import { catchInterrupts, type Interruption } from "../run/interrupt.ts";
import { CHECKPOINTS, LOCK, MODEL, RUN, saveModel, tokenizerTexts, writeRun } from "../run/run-folder.ts";
import { addOptions } from "./options.ts";
import { addRanksOptions, isRank, joinRanks, launchRanks, onceAHost, type RanksFlags } from "./ranks.ts";
import { resumeNotes } from "../run/resume-notes.ts";
import { fromFile, fromFlags, runSchema, shapeSchema, type RunSettings } from "../run/config.ts";
import { openRunData } from "../run/data.ts";
import { identityOf, readIdentity, refuseOtherText, writeIdentity } from "../run/identity.ts";
import { placedSettings, runSettings } from "../run/settings.ts";
import { reportStep } from "../run/step-report.ts";

/** By then every shape of a run has been met twice. */
const STEPS_TO_RECORD = 4;

/** Adds `memformer train`; its exit code is 129, 130 or 143 when a signal ended it. */
export function register(program: Command): void {
  const command = program
    .command("train")
    .description("train a model by memory replay back-propagation")
    .argument(
      "[file]",
      "a JSON file of the options below: {data, lanes, …, model: {…}, train: {…}}; options on the command line override it",
    )
    .option("--resume", "continue from the last checkpoint of the run in --out, with its settings");
  addRanksOptions(command, ["train", "the lanes"]);
  addOptions(command, runSchema, "Run");
  addOptions(command, shapeSchema, "Model");
  addOptions(command, trainSchema, "Training");
  command.action(
    async (
      file: string | undefined,
      { resume = false, gpus, processes, ...flags }: Given & Record<string, unknown>,
    ) => {
      const code = await launchRanks({ gpus, processes });
      if (code !== undefined) {
        process.exitCode = code;
        return;
      }
      const interruption = catchInterrupts();
      let group: Group | undefined;
      try {
        const settings = await runSettings(file, flags, resume);
        const placed =
          processes === undefined ? settings : { ...settings, run: { ...settings.run, device: "cpu" as const } };
        // After the settings are read: once all have joined, rank 0 writes them anew.
        group = isRank() ? await joinRanks(placed.run) : undefined;
        await train(placed, resume, interruption, group);
        await group?.leave();
      } catch (cause) {
        const error = group === undefined ? cause : await group.fail(cause);
        const abandoned = isMemformerError(error) && error.code === "ERR_MEMFORMER_ABORTED";
        if (!abandoned || interruption.exitCode === undefined) throw error;
      } finally {
        interruption.release();
      }
      if (interruption.exitCode !== undefined) process.exitCode = interruption.exitCode;
    },
  );
}

interface Given extends RanksFlags {
  readonly resume?: boolean;
}

async function train(
  { run, model: shape, train: options }: RunSettings,
  resume: boolean,
  interruption: Interruption,
  group: Group | undefined,
): Promise<void> {
  const isFirst = group === undefined || group.rank === 0; // alone it writes; the others only compute
  if (!resume && isFirst) await refuseRun(run.out); // early: tokenizing may take long
  // A run of memformer 0.1 goes on with its own division of the text.
  const division = resume && (await readIdentity(run.out))?.splits === undefined ? "order" : "content";
  await using data = await onceAHost(group, "the data", async () =>
    openRunData(run, await openTokenizer(run.tokenizer), { signal: interruption.signal, division }),
  );
  const { vocabulary, bos } = data.tokenizer,
    auxiliary = run.infilling + run.recallPrevious > 0;
  await using model = await Memformer.create({
    preset: run.preset,
    ...shape,
    vocabulary: auxiliary ? vocabulary + AUXILIARY_TOKENS : vocabulary,
    bos,
    seed: options.seed,
    threads: run.threads,
    device: group?.device ?? run.device,
  });
  if (auxiliary && model.config.architecture !== "encoder-decoder") {
    throw new MemformerError(
      "CONFIG",
      `infilling and recallPrevious need architecture "encoder-decoder", whose memory is written from what is read and not from what is predicted; got "${model.config.architecture}"`,
      { details: { argument: "architecture", found: model.config.architecture, expected: "encoder-decoder" } },
    );
  }
  configureRuntime({ tf32: run.tf32, deterministic: run.deterministic });
  const stream = new TokenStream(data.train, {
    lanes: run.lanes,
    segmentLength: model.config.segmentLength,
    seed: options.seed,
    ends: run.ends,
    infilling: run.infilling,
    recallPrevious: run.recallPrevious,
    ...(run.documentLimit !== undefined && { documentLimit: run.documentLimit }),
  });
  const trainer = new Trainer(model, options, { group });
  const settled = { run, model: fromFlags(model.config).model as RunSettings["model"], train: trainer.config };
  const prepared = { data, model, stream, trainer, settled, resume, interruption, group };
  if (!isFirst) {
    await group.barrier("the run's folder");
    return await trainBeside(prepared); // the model is disposed of after it
  }
  await withIoErrors("make", run.out, () => makeFolder(run.out));
  const release = await withIoErrors("lock", run.out, () => takeLock(join(run.out, LOCK), { patience: 0 }));
  try {
    if (!resume) await refuseRun(run.out);
    await group?.barrier("the run's folder");
    await trainLocked(prepared);
  } finally {
    await release();
  }
}

async function refuseRun(out: string): Promise<void> {
  if ((await new CheckpointStore(join(out, CHECKPOINTS)).last()) === undefined) return;
  throw new MemformerError("CONFIG", `${out} already holds a run: continue it with --resume, or choose another --out`, {
    details: { out },
  });
}

/** Everything that a run needs, opened and checked. */
interface Prepared {
  readonly data: Dataset;
  readonly model: Memformer;
  readonly stream: TokenStream;
  readonly trainer: Trainer<Memformer>;
  readonly settled: RunSettings;
  readonly resume: boolean;
  readonly interruption: Interruption;
  readonly group: Group | undefined;
}

/** What every rank but the first does: the same steps, of which the first tells. */
async function trainBeside({ data, stream, trainer, settled, resume, interruption, group }: Prepared): Promise<void> {
  const { run, train: options } = settled;
  interruption.signal.addEventListener("abort", () => {
    trainer.stop();
  });
  if (interruption.signal.aborted) throw new MemformerError("ABORTED", "stopped before the first step");
  const steps = trainer.run(stream, {
    checkpoints: join(run.out, CHECKPOINTS),
    resume,
    ...(options.evaluateEvery > 0 && { evaluate: heldOutScore(data, run, group) }),
  });
  while ((await steps.next()).done !== true);
}

/** The run itself, while no other process has its folder. */
async function trainLocked({
  data,
  model,
  stream,
  trainer,
  settled,
  resume,
  interruption,
  group,
}: Prepared): Promise<void> {
  const { run, train: options } = settled;
  const store = new CheckpointStore(join(run.out, CHECKPOINTS));
  const last = await store.last();
  const start = resume ? ((await store.list()).find(({ folder }) => folder === last)?.step ?? 0) : 0;
  const before = resume ? await readIdentity(run.out) : undefined;
  const now = identityOf(data);
  if (before !== undefined) refuseOtherText(run.out, before, now);
  // Of a run begun without noting its text it stays unknown what the steps so far were trained on.
  const { splits, ...unknown } = now;
  const identity = before ?? (resume ? unknown : now);
  const notes = resume ? resumeNotes(start, before, (await fromFile(join(run.out, RUN))).train, options) : [];
  await writeRun(run.out, placedSettings(settled));
  await writeIdentity(run.out, identity);

  const total = Math.max(options.steps, start);
  const progress = createProgress({ label: "train", total, start });
  const log = await RunLog.open(run.out, {
    resumeAfter: start,
    tensorboard: run.tensorboard,
    onFailure: ({ message }) => {
      progress.note(`${message}; training continues, and log entries wait until they can be written`);
    },
  });
  progress.note(
    `${data.spec}: ${data.train.tokens} tokens to train on${data.notes.map((note) => `; ${note}`).join("")}`,
  );
  const [size, state] = [`${formatNumber(model.parameterCount / 1e6, 3)} M parameters`, formatBytes(model.stateBytes)];
  const whence =
    (start > 0 ? `; resumed after step ${start}` : "") + (group === undefined ? "" : `; ${group.world} ranks`);
  progress.note(`${model.config.architecture}, ${size}, memory of ${state} a document${whence}`);
  for (const note of notes) progress.note(note);
  interruption.signal.addEventListener("abort", () => {
    trainer.stop();
    progress.note("finishing this step and saving a checkpoint; press Ctrl-C again to quit now");
  });
  if (interruption.signal.aborted) throw new MemformerError("ABORTED", "stopped before the first step");
  const tokenizer = await tokenizerTexts(data.tokenizer);
  try {
    const steps = trainer.run(stream, {
      checkpoints: store.root,
      resume,
      ...tokenizer,
      ...(options.evaluateEvery > 0 && { evaluate: heldOutScore(data, run, group) }),
    });
    for await (const step of steps) {
      reportStep(step, data.train, log, progress, run.evaluateSegments);
      if (step.step === start + STEPS_TO_RECORD) await noteRefusal(model, progress);
    }
  } finally {
    progress.stop();
    log.close();
  }
  if (trainer.step < options.steps) {
    process.stderr.write(
      `Stopped after step ${trainer.step} of ${options.steps}. Continue with: memformer train --resume --out ${run.out}\n`,
    );
    return;
  }
  await saveModel(model, join(run.out, MODEL), placedSettings(settled), { tokenizer, identity, step: trainer.step });
  process.stdout.write(`${join(run.out, MODEL)}\n`); // for show: the run is whole, whether this is read or not
}

/** Says why steps run one kernel at a time, where a GPU's are not recorded. */
async function noteRefusal(model: Memformer, progress: Progress): Promise<void> {
  const { refusal } = await model.capturedGraphs();
  if (refusal !== "") progress.note(`steps cannot be recorded, so they run kernel by kernel: ${refusal}`);
}

function heldOutScore(
  data: Dataset,
  run: RunSettings["run"],
  group: Group | undefined,
): NonNullable<RunOptions<Memformer>["evaluate"]> {
  const source = data.valid; // throws here, before the first step, if there is none
  return async (model, _step, signal) => {
    const { bitsPerByte } = await evaluateSource(model, source, {
      lanes: run.lanes,
      segments: run.evaluateSegments,
      ablations: [],
      signal,
      group,
    });
    return bitsPerByte;
  };
}
