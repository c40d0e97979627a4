/** The training loop: windows from a stream, their gradient by MRBP (or another method), one optimizer step a window. */
import { CheckpointStore } from "./checkpoint/folder.ts";
import type { FileWriter } from "./checkpoint/atomic.ts";
import type { SegmentStream } from "./data/segment-stream.ts";
import { MemformerError } from "./errors.ts";
import { horizonOf } from "./horizon.ts";
import type { Memformer } from "./model.ts";
import { AdamW } from "./optimizer.ts";
import { parseOptions } from "./options.ts";
import type { State } from "./recurrence.ts";
import { memory, type MemoryUse } from "./runtime.ts";
import { checkpointFiles, readCheckpoint } from "./train-checkpoint.ts";
import { trainSchema, type TrainConfig, type TrainOptions } from "./train-config.ts";
import { enqueueStep, readStep, type StepResult } from "./train-step.ts";
import { WindowReader, type Window } from "./window-reader.ts";

/** What is known of a step of training when it is done. */
export interface TrainStep {
  readonly step: number;
  /** Mean negative log-likelihood of the step's scored tokens, nats. */
  readonly loss: number;
  /** L2 norm of all parameters' gradients, before clipping. */
  readonly gradientNorm: number;
  /** L2 norm of dL/dmemory at the windows' start: what reaches back through the whole horizon. */
  readonly memoryGradientNorm: number;
  readonly rate: number;
  /** Scored tokens since the run's very start. */
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly memory: MemoryUse;
  /** What `evaluate` returned, at the steps where it ran. */
  readonly evaluation?: number;
  /** The folder of the checkpoint written after this step. */
  readonly checkpoint?: string;
}

/** Where a run begins, what it calls on the way, and what stops it. */
export interface RunOptions {
  /** Aborts between micro-steps and rejects with its reason; the weights are those of the last whole step. */
  readonly signal?: AbortSignal;
  /** A folder for checkpoints. Default: none are written. */
  readonly checkpoints?: string;
  /** Goes on from the last checkpoint in `checkpoints`, to the bit. Default false: starts anew. */
  readonly resume?: boolean;
  /** Measures the model every `evaluateEvery` steps; lower is better, the best checkpoint is kept. */
  readonly evaluate?: (model: Memformer, step: number) => Promise<number>;
  /** Text of a tokenizer.json to be saved with the model. */
  readonly tokenizer?: string;
}

/** Trains one model. `new Trainer(model, options)`; unknown options are refused by name (MemformerError CONFIG). Free it with `using` or `dispose()`. */
export class Trainer implements Disposable {
  readonly model: Memformer;
  readonly config: TrainConfig;
  readonly #optimizer: AdamW;
  #state: State = [];
  #step = 0;
  #tokens = 0;
  #best = Infinity;
  #stopping = false;
  #disposed = false;

  constructor(model: Memformer, options: TrainOptions = {}) {
    this.model = model;
    this.config = parseOptions(trainSchema, options, "train");
    this.#optimizer = new AdamW(model, this.config);
  }

  /** Steps made so far. */
  get step(): number {
    return this.#step;
  }

  /** Finishes the step that is under way, writes a checkpoint if there is a folder for them, and ends the run. */
  stop(): void {
    this.#stopping = true;
  }

  /**
   * Runs to `steps`, yielding a record a step. Throws MemformerError NAN_LOSS (nothing was updated by that step; the last
   * checkpoint is whole), DATA when the stream ends early, IO for the disk, and `signal.reason`.
   */
  async *run(stream: SegmentStream, options: RunOptions = {}): AsyncGenerator<TrainStep, void, void> {
    const { signal } = options;
    signal?.throwIfAborted();
    this.#refuseDisposed();
    const store = options.checkpoints === undefined ? undefined : new CheckpointStore(options.checkpoints, { keep: this.config.keep });
    this.#stopping = false;
    if (options.resume === true) await this.#resume(store, stream);
    if (this.#state.length === 0) this.#state = this.model.initialState(stream.lanes);
    const reader = new WindowReader(stream, this.config.horizon, this.config.overlap);
    let position: unknown, written = true; // whether the last step made has a checkpoint
    let ended = false;

    const readAhead = (step: number): Promise<Window[] | undefined> => {
      const windows = this.#read(reader, step);
      windows.catch(() => undefined); // a failure is for the step that waits for them
      return windows;
    };
    let windows = readAhead(this.#step + 1);
    while (this.#step < this.config.steps && !this.#stopping) {
      const began = performance.now(), step = this.#step + 1;
      const current = await windows;
      this.#refuseDisposed();
      if (current === undefined) {
        ended = true;
        break;
      }
      const made = enqueueStep(this.model, this.#optimizer, this.#state,
        { config: this.config, step, windows: current, overlap: this.config.overlap, signal });
      let result: StepResult;
      try {
        windows = readAhead(step + 1); // while the engine works
        result = await readStep(made);
        this.#refuseDisposed();
      } catch (error) {
        this.model.zeroGradients();
        for (const tensor of made.state) tensor.dispose();
        throw signal?.aborted === true ? signal.reason : error;
      }
      const { scored, loss, norm, memoryNorm } = result;
      if (!Number.isFinite(loss) || !Number.isFinite(norm)) {
        const last = await store?.last();
        for (const tensor of made.state) tensor.dispose();
        throw new MemformerError("NAN_LOSS",
          `step ${step}: the loss is ${loss} and the gradient's norm ${norm}; this step changed nothing` +
          (last === undefined ? "" : `, and the last checkpoint, ${last}, is whole`), { details: { step, loss, norm, checkpoint: last } });
      }
      for (const tensor of this.#state) tensor.dispose();
      this.#state = made.state;
      this.#step = step;
      this.#tokens += scored;
      position = current.at(-1)!.next;
      const record = await this.#finish({
        step, loss, gradientNorm: norm, memoryGradientNorm: memoryNorm, rate: made.rate, tokens: this.#tokens,
        tokensPerSecond: scored / ((performance.now() - began) / 1000), memory: memory(),
      }, position, store, options);
      written = record.checkpoint !== undefined;
      yield record;
    }
    // Stopped too late for the last step's own checkpoint: while it was evaluated, or yielded; or the stream has ended.
    if (!written) await store?.write(this.#step, this.#files(position, options.tokenizer));
    if (ended) throw new MemformerError("DATA", `the stream ended after step ${this.#step} of ${this.config.steps}; let it repeat, or ask for fewer steps`);
  }

  /** Frees the optimizer's moments and the memory carried along; the model stays. A run under way ends with DISPOSED. Idempotent. */
  dispose(): void {
    this.#disposed = true;
    for (const tensor of this.#state) tensor.dispose();
    this.#state = [];
    this.#optimizer.dispose();
  }

  /** For `using`: as `dispose`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #refuseDisposed(): void {
    if (this.#disposed) throw new MemformerError("DISPOSED", "this trainer has been disposed of");
  }

  /** The windows of a step; undefined when the stream ends before they are whole. */
  async #read(reader: WindowReader, step: number): Promise<Window[] | undefined> {
    const windows: Window[] = [], { horizon, accumulate, steps } = this.config;
    const reach = horizonOf(step, this.config), count = accumulate * horizon / reach;
    for (let i = 0; step <= steps && i < count; i++) {
      const window = await reader.next(reach);
      if (window === undefined) return undefined;
      windows.push(window);
    }
    return windows;
  }

  async #finish(record: TrainStep, position: unknown, store: CheckpointStore | undefined, options: RunOptions): Promise<TrainStep> {
    const { evaluateEvery, saveEvery, steps } = this.config;
    const { step } = record, last = step === steps || this.#stopping;
    let evaluation: number | undefined, best = false;
    if (options.evaluate !== undefined && evaluateEvery > 0 && (step % evaluateEvery === 0 || step === steps)) {
      evaluation = await options.evaluate(this.model, step);
      best = evaluation < this.#best;
      if (best) this.#best = evaluation;
    }
    let checkpoint: string | undefined;
    if (store !== undefined && (last || best || (saveEvery > 0 && step % saveEvery === 0))) {
      checkpoint = await store.write(step, this.#files(position, options.tokenizer), { best });
    }
    return { ...record, ...(evaluation === undefined ? {} : { evaluation }), ...(checkpoint === undefined ? {} : { checkpoint }) };
  }

  #files(position: unknown, tokenizer: string | undefined): Record<string, FileWriter> {
    const best = Number.isFinite(this.#best) ? this.#best : null;
    const progress = { step: this.#step, tokens: this.#tokens, best, position, train: this.config };
    return checkpointFiles({ model: this.model, optimizer: this.#optimizer, state: this.#state, progress, tokenizer });
  }

  async #resume(store: CheckpointStore | undefined, stream: SegmentStream): Promise<void> {
    const { state, progress } = await readCheckpoint(store, this.model, this.#optimizer, stream);
    for (const tensor of this.#state) tensor.dispose();
    this.#state = state;
    this.#step = progress.step;
    this.#tokens = progress.tokens;
    this.#best = progress.best ?? Infinity;
  }
}
