/** The training loop: windows from a stream, their gradient by MRBP (or another method), one optimizer step a window. */
import { openSafetensors, writeSafetensors } from "./checkpoint/safetensors.ts";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CheckpointStore, verify } from "./checkpoint/folder.ts";
import type { FileWriter } from "./checkpoint/atomic.ts";
import type { SegmentStream } from "./data/segment-stream.ts";
import { MemformerError } from "./errors.ts";
import { gradientMethods } from "./methods.ts";
import { assignAll, engineEntry, expectConfig, expectTensors, masterType, modelWriters, readModelFolder, readTensor } from "./model-files.ts";
import type { Memformer } from "./model.ts";
import { AdamW } from "./optimizer.ts";
import { parseOptions } from "./options.ts";
import type { State } from "./recurrence.ts";
import { cancellable, memory, type MemoryUse } from "./runtime.ts";
import { learningRate } from "./schedule.ts";
import { disposeSegment } from "./segment-tensors.ts";
import type { Segment } from "./segment.ts";
import { apply, tidy, type Tensor } from "./tensor.ts";
import { trainSchema, type TrainConfig, type TrainOptions } from "./train-config.ts";
import { WindowReader, type Window } from "./window-reader.ts";
import { segmentSeed } from "./window.ts";

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

/** What a checkpoint knows beside tensors: `trainer.json`. */
interface Progress {
  readonly step: number;
  readonly tokens: number;
  readonly best: number | null;
  readonly position: unknown;
  readonly train: TrainConfig;
}

/** Trains one model. `new Trainer(model, options)`; unknown options are refused by name (MemformerError CONFIG). */
export class Trainer {
  readonly model: Memformer;
  readonly config: TrainConfig;
  readonly #optimizer: AdamW;
  #state: State = [];
  #step = 0;
  #tokens = 0;
  #best = Infinity;
  #stopping = false;

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
      if (current === undefined) {
        ended = true;
        break;
      }
      const made = this.#enqueue(current, reader.carry, step, signal);
      let result: Awaited<ReturnType<Trainer["readStep"]>>;
      try {
        windows = readAhead(step + 1); // while the engine works
        result = await this.readStep(made);
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

  /** The windows of a step; undefined when the stream ends before they are whole. */
  async #read(reader: WindowReader, step: number): Promise<Window[] | undefined> {
    const windows: Window[] = [];
    for (let i = 0; step <= this.config.steps && i < this.config.accumulate; i++) {
      const window = await reader.next();
      if (window === undefined) return undefined;
      windows.push(window);
    }
    return windows;
  }

  /** One step's calls, all enqueued; nothing has run when this returns. */
  #enqueue(windows: readonly Window[], carry: number, step: number, signal: AbortSignal | undefined): Enqueued {
    const { config, model } = this;
    const rate = learningRate(step, config);
    return cancellable(signal, () => tidy(() => {
      let state = this.#state;
      const losses: Tensor[] = [], counts: Tensor[] = [], reached: Tensor[] = [];
      for (const [i, { segments }] of windows.entries()) {
        const window = segments.map((segment) => model.upload(segment));
        const result = gradientMethods[config.method](model, window, state, {
          seed: segmentSeed(config.seed, step * config.accumulate + i), weights: config.weights, scale: 1 / config.accumulate, carry,
        });
        window.forEach(disposeSegment);
        losses.push(...result.losses);
        counts.push(...result.counts);
        if (result.gradient[0] !== undefined) reached.push(apply("aten::linalg_vector_norm", result.gradient[0]));
        state = result.state;
      }
      const norm = model.clipGradients(config.clip);
      const made = {
        losses: apply("aten::stack", losses), counts: apply("aten::stack", counts), norm, state, rate,
        memoryNorm: reached.length === 0 ? undefined : apply("aten::max", apply("aten::stack", reached)),
      };
      this.#optimizer.step(rate, norm); // last: an abort either comes before it and the weights stay, or the step is whole
      return made;
    }));
  }

  private async readStep(made: Enqueued): Promise<{ scored: number; loss: number; norm: number; memoryNorm: number }> {
    const [losses, counts, norm, memoryNorm] = await Promise.all([
      made.losses.data(), made.counts.data(), made.norm.item(), made.memoryNorm?.item() ?? 0,
    ]);
    for (const tensor of [made.losses, made.counts, made.norm, made.memoryNorm]) tensor?.dispose();
    const scored = [...counts].reduce<number>((sum, count) => sum + Number(count), 0);
    const nats = [...losses].reduce<number>((sum, loss, i) => sum + Number(loss) * Number(counts[i]), 0);
    return { scored, loss: nats / Math.max(1, scored), norm, memoryNorm };
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
    const progress: Progress = {
      step: this.#step, tokens: this.#tokens, best: Number.isFinite(this.#best) ? this.#best : null, position, train: this.config,
    };
    const { memorySlots, width } = this.model.config;
    const state = this.#state.map((tensor, i) =>
      ({ name: `state.${i}`, tensor, shape: [0, memorySlots, width] }));
    return {
      ...modelWriters(this.model, tokenizer),
      "optimizer.safetensors": async (path) => writeSafetensors(path, this.#optimizer.entries()),
      "state.safetensors": async (path) => {
        const dtype = masterType(this.model.config);
        const entries = await Promise.all(state.map(async ({ name, tensor }) => {
          const { shape } = await tensor.read();
          return engineEntry(name, dtype, shape, () => tensor.detach());
        }));
        await writeSafetensors(path, entries);
      },
      "trainer.json": async (path) => writeFile(path, `${JSON.stringify(progress, null, 2)}\n`),
    };
  }

  async #resume(store: CheckpointStore | undefined, stream: SegmentStream): Promise<void> {
    const folder = await store?.last();
    if (store === undefined || folder === undefined) {
      throw new MemformerError("IO", `there is no checkpoint to resume from${store === undefined ? ": name their folder in `checkpoints`" : ` in ${store.root}`}`);
    }
    await verify(folder);
    const progress = JSON.parse(await readFile(join(folder, "trainer.json"), "utf8")) as Progress;
    const { config, weights } = await readModelFolder(folder);
    const optimizer = await openSafetensors(join(folder, "optimizer.safetensors"));
    const state = await openSafetensors(join(folder, "state.safetensors"));
    try {
      // Everything is checked before anything is copied.
      expectConfig(folder, config, this.model.config);
      expectTensors("model", this.model.parameters, weights);
      expectTensors("optimizer", this.#optimizer.tensors, optimizer);
      const lanes = state.entry("state.0").shape[0];
      if (lanes !== stream.lanes) {
        throw new MemformerError("CHECKPOINT_MISMATCH", `${folder} was trained on ${lanes} lanes, the stream has ${stream.lanes}`);
      }
      stream.seek(progress.position);
      await assignAll("model", this.model.parameters, weights, (name, value) => { this.model.assign(name, value); });
      await assignAll("optimizer", this.#optimizer.tensors, optimizer, (name, value) => { this.#optimizer.assign(name, value); });
      for (const tensor of this.#state) tensor.dispose();
      this.#state = await Promise.all([...state.names].sort().map(async (name) => readTensor(state, name)));
    } finally {
      await Promise.all([weights.close(), optimizer.close(), state.close()]);
    }
    this.#step = progress.step;
    this.#tokens = progress.tokens;
    this.#best = progress.best ?? Infinity;
  }
}

interface Enqueued {
  readonly losses: Tensor;
  readonly counts: Tensor;
  readonly norm: Tensor;
  readonly memoryNorm: Tensor | undefined;
  readonly state: State;
  readonly rate: number;
}

export type { Segment };
