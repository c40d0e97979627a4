/**
 * The training loop: windows from a stream, their gradient by MRBP (or another method), one optimizer step a window.
 */
import { z } from "zod";
import { CheckpointStore } from "../checkpoint/store.ts";
import type { FileWriter } from "../files/atomic.ts";
import type { TokenizerTexts } from "../checkpoint/model-files.ts";
import type { SegmentStream } from "../data/segment-stream.ts";
import { MemformerError } from "../errors.ts";
import type { Group } from "../distributed/group.ts";
import { lanesOf, streamOfLanes, type Lanes } from "../distributed/share.ts";
import { together } from "../distributed/together.ts";
import { GatheredMoments } from "./gathered-moments.ts";
import { horizonOf } from "./horizon.ts";
import { AdamW } from "./optimizer.ts";
import { checkOptions, optionSchema, optionTypes, parseOptions } from "../options.ts";
import type { State, TrainableModel } from "../model/recurrence.ts";
import { memoryUsage, synchronize, type MemoryUsage } from "../engine/runtime.ts";
import { agreeOnWeights, agreeToTrain, COMPARE_EVERY, onFirstRank, rowsOfState } from "./ranks.ts";
import { checkpointFiles, readCheckpoint } from "./checkpoint.ts";
import { trainSchema, type TrainConfig, type TrainOptions } from "./config.ts";
import {
  disposeGradient,
  enqueueGradient,
  enqueueUpdate,
  readStep,
  type EnqueuedGradient,
  type Ranks,
  type StepPlan,
  type StepResult,
} from "./step.ts";
import { WindowReader, type Window } from "./window-reader.ts";

/** What is known of a step of training when it is done. */
export interface TrainStep {
  readonly step: number;
  /** Mean negative log-likelihood of the step's scored tokens, nats. */
  readonly loss: number;
  /** L2 norm of all parameters' gradients, before clipping. */
  readonly gradientNorm: number;
  /** L2 norm of dL/dstate at the windows' start: what reaches back through the whole horizon. 0 without a state. */
  readonly memoryGradientNorm: number;
  readonly learningRate: number;
  /** Scored tokens since the run's very start. */
  readonly tokens: number;
  /**
   * Scored tokens of this step, over the time since the last one's result, or since this one began after an evaluation
   * or a checkpoint.
   */
  readonly tokensPerSecond: number;
  readonly memoryUsage: MemoryUsage;
  /** What `evaluate` returned, at the steps where it ran. */
  readonly evaluation?: number;
  /** The folder of the checkpoint written after this step. */
  readonly checkpoint?: string;
}

/** Where a run begins, what it calls on the way, what stops it, and the tokenizer to be saved with every checkpoint. */
export interface RunOptions<Model extends TrainableModel = TrainableModel> extends TokenizerTexts {
  /** Aborts between micro-steps and rejects with its reason; the weights are those of the last whole step. */
  readonly signal?: AbortSignal;
  /** A folder for checkpoints. Default: none are written. */
  readonly checkpoints?: string;
  /** Goes on from the last checkpoint in `checkpoints`, to the bit. Default false: starts anew. */
  readonly resume?: boolean;
  /**
   * Measures the model every `evaluateEvery` steps; lower is better, the best checkpoint is kept. `signal` aborts when
   * the run is stopped or aborted, and the evaluation may then reject: a stopped run ends without it. Whatever it fails
   * by, the step before it gets its checkpoint. With a group every rank calls it, at the same steps, and the number of
   * rank 0 counts: {@link evaluate} with the `group` shares out the text.
   */
  readonly evaluate?: (model: Model, step: number, signal: AbortSignal) => Promise<number>;
}

/** The gradient of the next step, enqueued before anybody has asked for that step. */
interface Ahead {
  readonly plan: StepPlan;
  readonly gradient: EnqueuedGradient;
  /** The model's, when the gradient was enqueued: with another one it is of other weights. */
  readonly revision: number;
  readonly halt: AbortController;
}

const { call, signal: abort, text } = optionTypes;
const runSchema = optionSchema<RunOptions>({
  signal: abort.optional(),
  checkpoints: text.min(1).optional(),
  resume: z.boolean().optional(),
  evaluate: call.optional(),
  tokenizer: text.optional(),
  tokenizerConfig: text.optional(),
});

/**
 * Trains one model. `new Trainer(model, options)`; unknown options are refused by name (MemformerError CONFIG). Free it
 * with `using` or `dispose()`.
 */
export class Trainer<Model extends TrainableModel = TrainableModel> implements Disposable {
  readonly model: Model;
  readonly config: TrainConfig;
  readonly #optimizer: AdamW;
  readonly #group: Group | undefined;
  #state: State | undefined;
  #lanes: Lanes | undefined;
  #step = 0;
  #tokens = 0;
  #best = Infinity;
  #stopping = new AbortController();
  #disposed = false;
  #stops = false; // asked for by this rank, not yet agreed on
  #ahead: Ahead | undefined;

  /**
   * `group`: the ranks that train together. Every rank makes a model of the same seed and a trainer with the same
   * options, and gives {@link run} the same stream: of its lanes each takes its own, and the weights stay the same to
   * the bit on all.
   */
  constructor(model: Model, options: TrainOptions = {}, { group }: { readonly group?: Group | undefined } = {}) {
    this.model = model;
    this.#group = group;
    this.config = parseOptions(trainSchema, options, "train");
    const { optimizer, beta1, beta2, eps, weightDecay, shardOptimizer } = this.config;
    this.#optimizer = new AdamW(
      model,
      { beta1, beta2, eps, weightDecay, muon: optimizer === "muon" },
      { group: shardOptimizer ? group : undefined },
    );
  }

  /** Steps made so far. */
  get step(): number {
    return this.#step;
  }

  /**
   * Finishes the step that is under way, writes a checkpoint if there is a folder for them, and ends the run. An
   * evaluation that is under way is told to end by its signal. With a group all ranks end after the same step, the
   * one that is under way or the next.
   */
  stop(): void {
    this.#stops = true;
    if (this.#group === undefined) this.#stopAll();
  }

  #stopAll(): void {
    this.#stopping.abort(new MemformerError("ABORTED", "the run was stopped"));
  }

  /**
   * Runs to `steps`, yielding a record per step. Between two steps the model's weights, the optimizer and the carried
   * memory are exactly what the last step left, while the gradient of the next one is being computed; what changes
   * weights or drops gradients there ({@link Memformer.assign}, another optimizer's step) makes it start anew. It does
   * not run ahead of an evaluation or a checkpoint. Throws MemformerError NAN_LOSS (nothing was updated by that step;
   * the last checkpoint is whole), DATA when the stream ends early, IO for the disk, and `signal.reason`. With a group
   * DISTRIBUTED, on every rank, when one of them ends before the others, or differs in configuration or weights.
   */
  async *run(stream: SegmentStream, options: RunOptions<Model> = {}): AsyncGenerator<TrainStep, void, void> {
    const group = this.#group;
    if (group === undefined) return yield* this.#run(stream, options);
    let left: unknown = new MemformerError("ABORTED", `rank ${group.rank} has left the training loop`);
    try {
      yield* this.#run(stream, options);
      left = undefined;
    } catch (error) {
      left = undefined;
      throw await group.fail(error);
    } finally {
      if (left !== undefined) await group.fail(left);
    }
  }

  async *#run(stream: SegmentStream, options: RunOptions<Model>): AsyncGenerator<TrainStep, void, void> {
    checkOptions(runSchema, options, "run");
    const { signal } = options;
    signal?.throwIfAborted();
    this.#refuseDisposed();
    const store =
      options.checkpoints === undefined
        ? undefined
        : new CheckpointStore(options.checkpoints, { keep: this.config.keep });
    this.#stopping = new AbortController();
    this.#stops = false;
    await this.#dropAhead();
    const group = this.#group,
      lanes = lanesOf(stream.lanes, group?.rank ?? 0, group?.world ?? 1);
    const ranks: Ranks | undefined = group === undefined ? undefined : { group, lanes };
    if (options.resume === true) await this.#resume(store, stream, lanes);
    this.#lanes = lanes;
    this.#state ??= this.model.initialState(lanes.count);
    if (group !== undefined) {
      group.step = this.#step;
      await agreeToTrain(group, this, stream, options);
    }
    const reader = new WindowReader(
      ranks === undefined ? stream : streamOfLanes(stream, lanes),
      this.config.horizon,
      this.config.overlap,
    );
    let position: unknown,
      written = true; // whether the last step made has a checkpoint
    let ended = false;

    const readAhead = (step: number): Promise<Window[] | undefined> => {
      const windows = this.#read(reader, step);
      windows.catch(() => undefined); // a failure is for the step that waits for them
      return windows;
    };
    let windows = readAhead(this.#step + 1),
      began = 0;
    const begin = (step: number, current: readonly Window[], state: State): void => {
      const halt = new AbortController(),
        plan = { config: this.config, step, windows: current, overlap: this.config.overlap, ranks };
      const gradient = enqueueGradient(this.model, state, { ...plan, signal: halt.signal });
      this.#ahead = { plan: { ...plan, signal }, gradient, revision: this.model.revision, halt };
    };
    const abort = (): void => {
      this.#ahead?.halt.abort(signal?.reason);
    };
    signal?.addEventListener("abort", abort);
    try {
      while (this.#step < this.config.steps && !this.#stopping.signal.aborted) {
        signal?.throwIfAborted();
        const step = this.#step + 1;
        if (this.#ahead !== undefined && this.#ahead.revision !== this.model.revision) {
          const { windows: again } = this.#ahead.plan;
          await this.#dropAhead();
          this.#refuseDisposed();
          began = performance.now();
          begin(step, again, this.#state);
        }
        if (this.#ahead === undefined) {
          const current = await windows;
          this.#refuseDisposed();
          if (current === undefined) {
            ended = true;
            break;
          }
          began = performance.now();
          begin(step, current, this.#state);
          windows = readAhead(step + 1); // while the engine works
        }
        const { plan, gradient } = this.#ahead!;
        const made = enqueueUpdate(this.model, this.#optimizer, gradient, plan, this.#stops),
          read = readStep(made, plan);
        if (group !== undefined) group.step = step;
        const reading = group?.guard("the sum of the gradients", read) ?? read;
        this.#ahead = undefined;
        let result: StepResult;
        try {
          // The next gradient follows at once, if its tokens come before this step's result does.
          if (this.#runsAhead(step, store, options)) {
            const upcoming = await Promise.race([windows.catch(() => undefined), reading.then(() => undefined)]);
            if (upcoming !== undefined) {
              try {
                begin(step + 1, upcoming, made.state);
                windows = readAhead(step + 2);
              } catch {
                // What is refused here is refused again, and told, when its step begins.
              }
            }
          }
          result = await reading;
          this.#refuseDisposed();
        } catch (error) {
          for (const tensor of made.state) tensor.dispose();
          await this.#dropAhead();
          if (!this.model.disposed) this.model.zeroGradients();
          throw signal?.aborted === true ? signal.reason : error;
        }
        const { scored, loss, norm, memoryNorm, stops } = result;
        if (stops) this.#stopAll();
        if (!Number.isFinite(loss) || !Number.isFinite(norm)) {
          const last = await store?.last();
          for (const tensor of made.state) tensor.dispose();
          throw new MemformerError(
            "NAN_LOSS",
            `step ${step}: the loss is ${loss} and the gradient's norm ${norm}; this step changed nothing` +
              (last === undefined ? "" : `, and the last checkpoint, ${last}, is whole`),
            { details: { step, loss, norm, checkpoint: last } },
          );
        }
        this.#replaceState(made.state);
        this.#step = step;
        this.#tokens += scored;
        position = plan.windows.at(-1)!.next;
        const now = performance.now();
        const record = await this.#finish(
          {
            step,
            loss,
            gradientNorm: norm,
            memoryGradientNorm: memoryNorm,
            learningRate: made.learningRate,
            tokens: this.#tokens,
            tokensPerSecond: scored / ((now - began) / 1000),
            memoryUsage: memoryUsage(),
          },
          position,
          store,
          options,
        );
        written = record.checkpoint !== undefined;
        began = now;
        yield record;
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      await reader.finish();
      await this.#dropAhead();
    }
    // Stopped too late for the last step's own checkpoint: while it was evaluated, or yielded; or the stream has ended.
    if (!written) await this.#save(store, position, options);
    if (ended)
      throw new MemformerError(
        "DATA",
        `the stream ended after step ${this.#step} of ${this.config.steps}; let it repeat, or ask for fewer steps`,
      );
  }

  /**
   * Frees the optimizer's moments and the state carried along; the model stays. A run under way ends with DISPOSED.
   * Idempotent.
   */
  dispose(): void {
    this.#disposed = true;
    if (this.#ahead !== undefined) {
      disposeGradient(this.#ahead.gradient);
      this.#ahead = undefined;
      if (!this.model.disposed) this.model.zeroGradients();
    }
    this.#replaceState(undefined);
    this.#optimizer.dispose();
  }

  /** For `using`: as `dispose`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #replaceState(state: State | undefined): void {
    for (const tensor of this.#state ?? []) tensor.dispose();
    this.#state = state;
  }

  #refuseDisposed(): void {
    if (this.#disposed) throw new MemformerError("DISPOSED", "this trainer has been disposed of");
  }

  /** Whether the gradient of the step after `step` may be begun before `step` is done. */
  #runsAhead(step: number, store: CheckpointStore | undefined, options: RunOptions<Model>): boolean {
    return (
      step < this.config.steps &&
      !this.#stopping.signal.aborted &&
      (this.#group === undefined || this.config.statePassing === 0) && // ranks could not take back what they passed
      !this.#evaluates(step, options) &&
      !this.#saves(step, store)
    );
  }

  #evaluates(step: number, { evaluate }: RunOptions<Model>): boolean {
    const { evaluateEvery, steps } = this.config;
    return (
      evaluate !== undefined &&
      !this.#stopping.signal.aborted &&
      evaluateEvery > 0 &&
      (step % evaluateEvery === 0 || step === steps)
    );
  }

  #saves(step: number, store: CheckpointStore | undefined): boolean {
    const { saveEvery, steps } = this.config;
    return (
      store !== undefined &&
      (step === steps || this.#stopping.signal.aborted || (saveEvery > 0 && step % saveEvery === 0))
    );
  }

  /** Forgets a gradient that no update will be made of; what of it has not run yet is skipped. */
  async #dropAhead(): Promise<void> {
    const ahead = this.#ahead;
    if (ahead === undefined) return;
    this.#ahead = undefined;
    ahead.halt.abort();
    disposeGradient(ahead.gradient);
    if (this.model.disposed) return;
    await synchronize().catch(() => undefined); // takes in the failure of a call that was skipped
    if (!this.model.disposed) this.model.zeroGradients();
  }

  /** The windows of a step; undefined when the stream ends before they are whole. */
  async #read(reader: WindowReader, step: number): Promise<Window[] | undefined> {
    const windows: Window[] = [],
      { horizon, accumulate, steps } = this.config;
    const reach = horizonOf(step, this.config),
      count = (accumulate * horizon) / reach;
    for (let i = 0; step <= steps && i < count; i++) {
      const window = await reader.next(reach);
      if (window === undefined) return undefined;
      windows.push(window);
    }
    return windows;
  }

  async #finish(
    record: TrainStep,
    position: unknown,
    store: CheckpointStore | undefined,
    options: RunOptions<Model>,
  ): Promise<TrainStep> {
    const { step } = record;
    let evaluation: number | undefined,
      best = false;
    if (this.#group !== undefined && step % COMPARE_EVERY === 0) await agreeOnWeights(this.#group, this.model);
    if (this.#evaluates(step, options)) {
      const stopping = this.#stopping.signal;
      const asked = async (): Promise<number> =>
        options.evaluate!(
          this.model,
          step,
          options.signal === undefined ? stopping : AbortSignal.any([stopping, options.signal]),
        );
      try {
        evaluation =
          this.#group === undefined ? await asked() : (await together(this.#group, "the evaluation", asked))[0]!;
      } catch (error) {
        if (!stopping.aborted) {
          // An evaluation that fails costs no step.
          if (this.#group?.failure === undefined) await this.#save(store, position, options);
          throw error;
        }
      }
      best = evaluation !== undefined && evaluation < this.#best;
      if (best) this.#best = evaluation!;
    }
    let checkpoint: string | undefined;
    if (store !== undefined && (best || this.#saves(step, store)))
      checkpoint = await this.#save(store, position, options, best);
    return {
      ...record,
      ...(evaluation === undefined ? {} : { evaluation }),
      ...(checkpoint === undefined ? {} : { checkpoint }),
    };
  }

  /** Writes a checkpoint, rank 0 alone: it gathers all rows' state first, and the others wait until it is written. */
  async #save(
    store: CheckpointStore | undefined,
    position: unknown,
    options: RunOptions<Model>,
    best = false,
  ): Promise<string | undefined> {
    if (store === undefined) return undefined;
    this.#refuseDisposed();
    const group = this.#group,
      write = async (state: State, moments?: (name: string) => Promise<Uint8Array>): Promise<string> =>
        store.write(this.#step, this.#files(state, position, options, moments), { best });
    if (group === undefined) return write(this.#state!);
    const { first, total } = this.#lanes!,
      whole = this.#state!.map((tensor) => group.gatherRows(tensor, first, total));
    const moments = this.#optimizer.group === undefined ? undefined : new GatheredMoments(group, this.#optimizer);
    try {
      await group.guard("gathering the states", synchronize());
      await moments?.giveFirstRank();
      return await onFirstRank(group, "the checkpoint", async () => {
        try {
          return await write(whole, moments?.read);
        } finally {
          await moments?.end();
        }
      });
    } finally {
      for (const tensor of whole) tensor.dispose();
    }
  }

  #files(
    state: State,
    position: unknown,
    { tokenizer, tokenizerConfig }: TokenizerTexts,
    moments?: (name: string) => Promise<Uint8Array>,
  ): Record<string, FileWriter> {
    const best = Number.isFinite(this.#best) ? this.#best : null;
    const progress = { step: this.#step, tokens: this.#tokens, best, position, train: this.config };
    return checkpointFiles({
      model: this.model,
      optimizer: this.#optimizer,
      moments,
      state,
      progress,
      tokenizer: { tokenizer, tokenizerConfig },
    });
  }

  async #resume(store: CheckpointStore | undefined, stream: SegmentStream, lanes: Lanes): Promise<void> {
    const { state, progress } = await readCheckpoint(store, this.model, this.#optimizer, stream);
    this.#replaceState(lanes.count === lanes.total ? state : rowsOfState(state, lanes));
    this.#step = progress.step;
    this.#tokens = progress.tokens;
    this.#best = progress.best ?? Infinity;
  }
}
