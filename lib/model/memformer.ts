/** The model: creating and loading it, its steps, its parameters, saving it. */
import { architectures, generating } from "./architectures/index.ts";
import { modelConfig, modelSchema, presets, type ModelConfig, type ModelOptions, type PresetName } from "./config.ts";
import { didYouMean, MemformerError } from "../errors.ts";
import type { SegmentHandle } from "../native/addon.ts";
import { guarded, nextCall, waited } from "../native/calls.ts";
import { gpuBytes, resolveDevice, type Device, type DeviceName } from "../native/cuda.ts";
import { knownOptions, optionNames, wholeSeed } from "../options.ts";
import { configureRuntime } from "../engine/runtime.ts";
import { assignAll, masterType, readDescription, readModelFolder, writeModel } from "./weights-files.ts";
import type { ComposedParameters } from "./composed.ts";
import { filledSpecs, type ParameterSpec } from "./parameter-spec.ts";
import { HeldParameters, type MadeModel } from "./held-parameters.ts";
import type { Replayed, State, StatePart, Step, StepOptions, TrainableModel } from "./recurrence.ts";
import { seedTensor } from "./row-seeds.ts";
import { segmentHandle, uploadSegment, type SegmentTensors } from "./segment-tensors.ts";
import type { Segment } from "../data/segment.ts";
import type { Ablation, Scored, ScoringState } from "./scoring.ts";
import { Decoder, type DecoderOptions } from "../generate/decoder.ts";
import { Session } from "../generate/session.ts";
import type { SessionModel } from "../generate/session-model.ts";
import { Tensor } from "../engine/tensor.ts";
import { segmentsPerStep, type Purpose } from "./segments-per-step.ts";
import { rowBytes } from "./state.ts";

export interface CreateOptions extends ModelOptions {
  /** A named starting point; the options beside it win. Default "small". */
  readonly preset?: PresetName;
  /** Seed of the initial weights. Default 0. */
  readonly seed?: number;
  /** Where to compute: "cpu", "cuda" (the first GPU), "cuda:N", or "auto", a GPU where there is one. Default "auto". */
  readonly device?: DeviceName;
  /** Threads of the operators, for the whole process; default one a core. */
  readonly threads?: number;
}

/** A tensor that {@link Memformer.observe} saw. */
export interface Observed {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** Where and how {@link Memformer.load} computes. */
export type LoadOptions = Pick<CreateOptions, "device" | "threads" | "precision">;
const beside = { preset: true, seed: true, device: true, threads: true } as const satisfies Record<
  Exclude<keyof CreateOptions, keyof ModelOptions>,
  true
>;
const createNames = [...Object.keys(modelSchema.shape), ...Object.keys(beside)];
const loadNames = optionNames<LoadOptions>({ device: true, threads: true, precision: true });
const stepNames = optionNames<StepOptions & { readonly graph?: boolean }>({
  seed: true,
  firstRow: true,
  training: true,
  graph: true,
});

/**
 * A Memformer. Make one with {@link Memformer.create} or {@link Memformer.load}; free it with `await using` or
 * `dispose()`.
 */
export class Memformer extends HeldParameters implements TrainableModel, SessionModel {
  readonly config: ModelConfig;
  readonly stateLayout: readonly StatePart[];
  #recordSteps = true;

  private constructor(config: ModelConfig, device: Device, made: MadeModel) {
    super(device, made);
    this.config = config;
    this.stateLayout = made.stateLayout;
  }

  /**
   * A model with fresh weights. Throws MemformerError CONFIG for an unknown option, naming the one meant, LOAD_FAILED
   * or LIBTORCH_NOT_FOUND when the native core is not there, NO_CUDA or DRIVER_TOO_OLD for a GPU that is asked for and
   * is not. `parameters`: those of a head of your own, kept, saved and trained with the model's; see {@link share}.
   * Not with precision "float16", whose gradients are scaled inside the model alone.
   */
  static async create(options: CreateOptions = {}, parameters: readonly ParameterSpec[] = []): Promise<Memformer> {
    knownOptions(createNames, options, "model");
    const { preset = "small", seed = 0, device = "auto", threads, ...given } = options;
    if (!Object.hasOwn(presets, preset)) {
      const meant = didYouMean(String(preset), Object.keys(presets));
      throw new MemformerError("CONFIG", `there is no preset "${preset}"${meant}`);
    }
    wholeSeed(seed, "model");
    const filled = filledSpecs(parameters);
    for (const key of Object.keys(given))
      if (given[key as keyof ModelOptions] === undefined) delete given[key as keyof ModelOptions];
    const config = modelConfig({ ...presets[preset], ...given });
    configureRuntime(threads === undefined ? {} : { threads });
    const place = resolveDevice(device),
      call = nextCall();
    if (config.precision === "float16" && filled.length > 0)
      throw new MemformerError("CONFIG", 'model: precision "float16" takes no parameters of your own; "bfloat16" does');
    if (config.precision === "float16" && place === "cpu") {
      throw new MemformerError(
        "CONFIG",
        'model: precision "float16" needs a GPU, and this is the CPU; "bfloat16" is for both',
      );
    }
    return new Memformer(
      config,
      place,
      await waited((addon) => addon.createModel(call, config.architecture, config, seed, place, filled)),
    );
  }

  /**
   * The model a folder holds: config.json and model.safetensors. Throws MemformerError CHECKPOINT_FORMAT,
   * CHECKPOINT_VERSION, CHECKPOINT_MISMATCH (its tensors are not those of its configuration), NOT_FINITE for weights
   * with NaN or infinity, IO. `precision` is by default the configuration's; `parameters` are those given to
   * {@link create}.
   */
  static async load(
    folder: string,
    options: LoadOptions = {},
    parameters: readonly ParameterSpec[] = [],
  ): Promise<Memformer> {
    knownOptions(loadNames, options, "load");
    const { config, weights } = await readModelFolder(folder),
      { precision = config.precision, ...others } = options;
    try {
      const model = await Memformer.create({ ...config, ...others, precision }, parameters);
      try {
        await model.readWeights(weights);
      } catch (error) {
        await model.dispose();
        throw error;
      }
      return model;
    } finally {
      await weights.close();
    }
  }

  /**
   * Writes config.json and model.safetensors into `folder`, whole or not at all. Throws MemformerError NOT_FINITE, IO.
   */
  async save(folder: string): Promise<void> {
    await writeModel(this, folder);
  }

  /**
   * @internal Reads every parameter from an open safetensors file; refuses missing, extra and misshapen tensors by
   * name.
   */
  async readWeights(weights: Awaited<ReturnType<typeof readModelFolder>>["weights"]): Promise<void> {
    await assignAll("model", this.parameters, weights, (name, value) => {
      this.assign(name, value);
    });
  }

  /** Bytes of the state of one row: M x D numbers, however long the history. */
  get stateBytes(): number {
    return rowBytes(this.stateLayout);
  }

  /**
   * What a {@link ComposedModel} over this model is made of: the same parameters, so that one optimizer trains both.
   * Dispose of either.
   */
  share(): ComposedParameters {
    this.lend();
    const { device, parameters, handle: model } = this;
    return { made: { model, parameters }, device, precision: this.config.precision, dtype: masterType(this.config) };
  }

  /** @internal */
  readDescription(found: Readonly<Record<string, unknown>>, file: string): ModelConfig {
    return readDescription(found, file);
  }

  /**
   * A session with this model at the start of a document. `tokenizer`: as in training, default "bytes".
   * Rejects with MemformerError CONFIG when it has more tokens than the model.
   */
  async session(tokenizer?: Parameters<typeof Session.open>[1]): Promise<Session<Memformer>> {
    return Session.open(this, tokenizer);
  }

  /** The state at time 0 of `rows` rows. */
  initialState(rows: number): State {
    if (!Number.isSafeInteger(rows) || rows < 0)
      throw new MemformerError("CONFIG", `rows must be a whole number of at least 0, got ${String(rows)}`);
    const call = nextCall();
    return tensors(guarded((addon) => addon.initialState(call, this.handle, rows)));
  }

  /**
   * Hands a segment to the engine. Throws MemformerError TOKEN_RANGE for a token out of the vocabulary, SHAPE for
   * arrays of the wrong length, and for segments longer than the model's, which sessions never read.
   */
  upload(segment: Segment): SegmentTensors {
    if (segment.length > this.config.segmentLength) {
      throw new MemformerError(
        "SHAPE",
        `segments have ${segment.length} tokens, more than the ${this.config.segmentLength} of this model's: stream by its segment`,
        { details: { found: segment.length, expected: this.config.segmentLength } },
      );
    }
    return uploadSegment(segment, this.config.vocabulary);
  }

  /** @internal See {@link SessionModel}. */
  readonly advancesNarrow = true;

  advance(segment: SegmentTensors, state: State, options: StepOptions = {}): State {
    const call = nextCall();
    return this.#step(segment, state, options, (addon, handle, given) =>
      addon.advance(call, this.handle, [handle], given),
    );
  }

  /**
   * @internal See {@link SessionModel}. Each launch costs a GPU a tenth of a segment's time, which eight share; on a
   * CPU, where nothing is gained, other calls would wait behind eight. A twin's rows restart in every segment.
   */
  get segmentsAtOnce(): number {
    return this.device === "cpu" || !this.config.memory ? 1 : 8;
  }

  /** @internal See {@link SessionModel}. */
  advanceAll(segments: readonly SegmentTensors[], state: State): State {
    this.#checkState(state);
    const call = nextCall();
    using seed = seedTensor({}, segments[0]!.batch);
    const handles = segments.map((segment) => segmentHandle(segment, seed));
    return tensors(
      guarded((addon) =>
        addon.advance(
          call,
          this.handle,
          handles,
          state.map((tensor) => tensor.handle),
        ),
      ),
    );
  }

  forward(segment: SegmentTensors, state: State, options: StepOptions & { readonly graph?: boolean } = {}): Step {
    const call = nextCall();
    const [loss, count, ...next] = this.#step(segment, state, options, (addon, handle, given) =>
      addon.forward(call, this.handle, handle, given, options.graph ?? false),
    );
    return { loss: loss!, count: count!, state: next };
  }

  /** One launch on a GPU, once segments of these shapes have occurred twice; see {@link captureGraphs}. */
  replay(
    segments: readonly SegmentTensors[],
    state: State,
    weights: readonly number[],
    gradient: State,
    options: readonly StepOptions[],
    last: boolean,
  ): Replayed {
    this.#checkState(state);
    const call = nextCall(),
      seeds = options.map((option, g) => this.#seed(option, segments[g]!));
    const handles = segments.map((segment, g) => segmentHandle(segment, seeds[g]!, options[g]));
    const [loss, count, ...rest] = tensors(
      guarded((addon) =>
        addon.replay(
          call,
          this.handle,
          handles,
          state.map((tensor) => tensor.handle),
          weights,
          gradient.map((tensor) => tensor.handle),
          last,
        ),
      ),
    );
    for (const seed of seeds) seed.dispose();
    const made = last ? this.stateLayout.length : 0;
    return { loss: loss!, count: count!, state: rest.slice(0, made), gradient: rest.slice(made) };
  }

  /**
   * Default number of segments per replay step: enough tokens to fill the GPU, limited to activations in 3/5 of the
   * memory left after the parameters; always 1 on a CPU.
   */
  segmentsPerStep({ batch, length }: SegmentTensors): number {
    return this.#perStep("training", batch, length);
  }

  /**
   * The losses of consecutive segments, without gradient and dropout, with the memory and with each of `ablations` in
   * its place. One launch on a GPU, once segments of these shapes have occurred twice. Throws MemformerError SHAPE
   * for a state of the wrong size.
   */
  score(segments: readonly SegmentTensors[], { memory, held }: ScoringState, ablations: readonly Ablation[]): Scored {
    this.#checkState(memory);
    const call = nextCall(),
      seed = seedTensor({}, 1);
    const handles = segments.map((segment) => segmentHandle(segment, seed));
    const [losses, counts, ...rest] = tensors(
      guarded((addon) =>
        addon.score(
          call,
          this.handle,
          handles,
          memory.map((tensor) => tensor.handle),
          held.map((tensor) => tensor.handle),
          ablations,
        ),
      ),
    );
    seed.dispose();
    return {
      losses: losses!,
      counts: counts!,
      state: { memory: rest.slice(0, this.stateLayout.length), held: rest.slice(this.stateLayout.length) },
    };
  }

  /** How many consecutive segments of `batch` rows of `length` tokens {@link score} best takes at once; on a CPU 1. */
  scoringSegmentsPerStep(batch: number, length: number): number {
    return this.#perStep("scoring", batch, length);
  }

  /**
   * Whether `advance` and `replay` are recorded as CUDA graphs: on a GPU, unless {@link captureGraphs} has turned it
   * off.
   */
  get capturesGraphs(): boolean {
    return this.device !== "cpu" && this.#recordSteps;
  }

  /** Whether `advance` and `replay` are recorded as CUDA graphs on a GPU. They are unless this says no. */
  captureGraphs(enabled: boolean): void {
    guarded((addon) => {
      addon.setGraphCapture(nextCall(), this.handle, enabled);
    });
    this.#recordSteps = enabled;
  }

  /** How many steps are recorded now, and why one could not be (else ""). */
  async capturedGraphs(): Promise<{ readonly steps: number; readonly refusal: string }> {
    const call = nextCall();
    return waited((addon) => addon.capturedGraphs(call, this.handle));
  }

  /** The hidden states (B, T, D) of the stack that writes the memory, and the next state. */
  encode(
    segment: SegmentTensors,
    state: State,
    options: StepOptions & { readonly graph?: boolean } = {},
  ): { hidden: Tensor; state: State } {
    const call = nextCall();
    const [hidden, ...next] = this.#step(segment, state, options, (addon, handle, given) =>
      addon.encode(call, this.handle, handle, given, options.graph ?? false),
    );
    return { hidden: hidden!, state: next };
  }

  /**
   * Intermediate tensors of a step over a segment: `<stack>.<layer>.stream` (B, T, D), `<stack>.embedding.stream`,
   * `<layer>.self_attention.logits` and those of memory_read and cross_attention (H, the largest), `writer.self` (B, H,
   * M, a slot's weight on itself), `writer.logits`, `writer.values` (B, T, D), `hidden` (B, T, D), and
   * `memory_read.weights` (B, T, M + C), how much of each slot, then of each constant one, a token reads: the mean of
   * layers and heads; of "compressive-transformer" `compression.loss` (). `wanted`: names, nothing else is computed for
   * the observation; default all.
   */
  async observe(segment: SegmentTensors, state: State, wanted: readonly string[] = []): Promise<Map<string, Observed>> {
    const call = nextCall();
    const [names, values] = this.#step(segment, state, {}, (addon, handle, given) =>
      addon.observe(call, this.handle, handle, given, wanted),
    ) as [Tensor, Tensor];
    const [text, all] = await Promise.all([names.data(), values.data()]);
    names.dispose();
    values.dispose();
    let at = 0;
    return new Map(
      (JSON.parse(Buffer.from(text as Uint8Array).toString()) as [string, number[]][]).map(([name, shape]) => {
        const data = (all as Float32Array).subarray(at, (at += shape.reduce((product, size) => product * size, 1)));
        return [name, { shape, data }];
      }),
    );
  }

  /** Logits (B, V) of the token after `prefix` (B, P), the beginning of the segment that follows `segment.source`. */
  logits(segment: SegmentTensors, prefix: Tensor, state: State): Tensor {
    const call = nextCall();
    return this.#step(segment, state, {}, (addon, handle, given) =>
      addon.logits(call, this.handle, handle, given, prefix.handle),
    )[0]!;
  }

  /**
   * Token by token: caches of `slots` open segments, default 1. Throws MemformerError CONFIG for the architecture
   * "encoder", which does not generate, and for options that are none.
   */
  decoder(slots = 1, options: DecoderOptions = {}): Decoder {
    const { architecture, segmentLength, vocabulary, bos } = this.config;
    if (!architectures[architecture].generates) {
      throw new MemformerError(
        "CONFIG",
        `architecture "${architecture}" has no next token to predict; use ${generating()} to generate`,
      );
    }
    const stateParts = this.stateLayout.length;
    return new Decoder({ handle: this.handle, length: segmentLength, vocabulary, bos, stateParts }, slots, options);
  }

  #perStep(purpose: Purpose, batch: number, length: number): number {
    const { config, parameterCount: parameters, device } = this;
    if (device === "cpu") return 1;
    return segmentsPerStep(purpose, { config, parameters, batch, length, deviceBytes: gpuBytes(device) });
  }

  /** Without dropout nothing is drawn. */
  #seed({ firstRow, ...options }: StepOptions, { batch }: SegmentTensors): Tensor {
    const drawn = options.training === true && this.config.dropout > 0 && firstRow !== undefined;
    return seedTensor(drawn ? { ...options, firstRow } : options, batch);
  }

  #checkState(state: State): void {
    if (state.length === this.stateLayout.length) return;
    throw new MemformerError(
      "SHAPE",
      `this model's state is ${this.stateLayout.length} tensor(s), got ${state.length}`,
    );
  }

  #step(
    segment: SegmentTensors,
    state: State,
    options: StepOptions,
    call: (
      addon: Parameters<Parameters<typeof guarded>[0]>[0],
      segment: SegmentHandle,
      state: Tensor["handle"][],
    ) => Tensor["handle"][],
  ): Tensor[] {
    this.#checkState(state);
    knownOptions(stepNames, options, "step");
    const seed = this.#seed(options, segment);
    try {
      return tensors(
        guarded((addon) =>
          call(
            addon,
            segmentHandle(segment, seed, options),
            state.map((tensor) => tensor.handle),
          ),
        ),
      );
    } finally {
      seed.dispose();
    }
  }
}

function tensors(handles: readonly Tensor["handle"][]): Tensor[] {
  return handles.map((handle) => new Tensor(handle));
}
