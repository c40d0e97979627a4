/**
 * The addon's whole surface, typed: the other half of native/napi/addon.cpp. Every function that enqueues takes the
 * call's number first (see calls.ts) and returns handles at once; what returns a Promise waits for the engine.
 */
declare const brand: unique symbol;
/** A tensor that is there, or will be. */
export interface TensorHandle {
  readonly [brand]: "tensor";
}
export interface ModelHandle {
  readonly [brand]: "model";
}
export interface OptimizerHandle {
  readonly [brand]: "optimizer";
}
export interface DecoderHandle {
  readonly [brand]: "decoder";
}
export interface GroupHandle {
  readonly [brand]: "group";
}
export interface CancelHandle {
  readonly [brand]: "cancel";
}

/** Element types that cross the border. */
export type DType = "float64" | "float32" | "float16" | "bfloat16" | "int64" | "int32" | "uint8" | "bool";

export type OperatorArgument =
  TensorHandle | readonly TensorHandle[] | readonly number[] | number | boolean | string | null;

export interface NativeMemory {
  readonly tensors: number;
  readonly hostBytes: number;
  readonly peakHostBytes: number;
  readonly cachedBytes: number;
  readonly deviceBytes: number;
  readonly peakDeviceBytes: number;
  readonly reservedDeviceBytes: number;
}

export interface NativeParameter {
  readonly name: string;
  readonly shape: readonly number[];
  readonly decay: boolean;
}

/** A parameter that is added to those a model makes itself, drawn from N(value, deviation^2). */
export interface NativeParameterSpec extends NativeParameter {
  readonly deviation: number;
  readonly value: number;
}

export interface NativeStatePart {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly differentiable: boolean;
}

/** A segment as the addon takes it. */
export interface SegmentHandle {
  readonly source: TensorHandle;
  readonly target: TensorHandle;
  readonly reset: TensorHandle;
  /** () int64, decides every draw. */
  readonly seed: TensorHandle;
  readonly lengths: TensorHandle;
  /** Whether dropout is on. */
  readonly training: boolean;
}

/** Where a group's ranks meet, and how patient it is (seconds). */
export interface NativeMembership {
  readonly rank: number;
  readonly world: number;
  readonly host: string;
  readonly port: number;
  readonly prefix: string;
  readonly hostsStore: boolean;
  readonly device: string;
  readonly startLimit: number;
  readonly limit: number;
  readonly period: number;
  /** What goes with this rank's signs of life, until `groupSay`. */
  readonly says: string;
}

/** Seconds since the store last answered, since each rank's last sign of life, and what the rank said with it. */
export interface NativePulses {
  readonly storeAge: number;
  /** Why the store never will again; "" while it may. */
  readonly storeFailure: string;
  readonly ranks: readonly { readonly age: number; readonly says: string }[];
}

/** How rows of a run draw: see `RunSampling`. */
export interface NativeSampling {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly floor: number;
  readonly tokens: number;
  readonly also: number;
  /** Places among the tensors of the call; -1: none. */
  readonly bias: number;
  readonly gaps: number;
}

export interface Addon {
  configure(threads: number): void;
  stop(): void;
  memory(): NativeMemory;
  resetPeak(call: number): void;
  trim(): void;
  versions(): { readonly libtorch: string; readonly threads: number };
  openCuda(path: string): { readonly name: string; readonly bytes: number }[];
  setMath(call: number, tf32: boolean, deterministic: boolean): void;
  startProfile(call: number): void;
  stopProfile(call: number, path: string): void;
  newCancel(): CancelHandle;
  useCancel(flag: CancelHandle | null): void;
  cancel(flag: CancelHandle): void;

  tensor(dtype: DType, shape: readonly number[], bytes: Uint8Array): TensorHandle;
  read(call: number, tensor: TensorHandle, waitOnly: true): Promise<void>;
  read(call: number, tensor: TensorHandle): Promise<{ dtype: DType; shape: number[]; data: ArrayBuffer }>;
  read(call: number): Promise<void>;
  release(tensor: TensorHandle): void;
  /** `results`: how many tensors come, where the operator returns a list. */
  op(call: number, name: string, overload: string, args: readonly OperatorArgument[], results?: number): TensorHandle[];
  detach(call: number, tensor: TensorHandle): TensorHandle;
  leaf(call: number, tensor: TensorHandle): TensorHandle;
  gradient(call: number, leaf: TensorHandle): TensorHandle;
  backward(call: number, outputs: readonly TensorHandle[], grads: readonly (TensorHandle | number | null)[]): void;

  createModel(
    call: number,
    architecture: string,
    config: object,
    seed: number,
    device: string,
    parameters?: readonly NativeParameterSpec[],
  ): Promise<{ model: ModelHandle; stateLayout: NativeStatePart[]; parameters: NativeParameter[] }>;
  dropModel(model: ModelHandle): void;
  initialState(call: number, model: ModelHandle, rows: number): TensorHandle[];
  forward(
    call: number,
    model: ModelHandle,
    segment: SegmentHandle,
    state: readonly TensorHandle[],
    withGraph: boolean,
  ): TensorHandle[];
  encode(
    call: number,
    model: ModelHandle,
    segment: SegmentHandle,
    state: readonly TensorHandle[],
    withGraph: boolean,
  ): TensorHandle[];
  advance(
    call: number,
    model: ModelHandle,
    segments: readonly SegmentHandle[],
    state: readonly TensorHandle[],
  ): TensorHandle[];
  replay(
    call: number,
    model: ModelHandle,
    segments: readonly SegmentHandle[],
    state: readonly TensorHandle[],
    weights: readonly number[],
    gradient: readonly TensorHandle[],
    last: boolean,
  ): TensorHandle[];
  score(
    call: number,
    model: ModelHandle,
    segments: readonly SegmentHandle[],
    state: readonly TensorHandle[],
    held: readonly TensorHandle[],
    ablations: readonly string[],
  ): TensorHandle[];
  observe(
    call: number,
    model: ModelHandle,
    segment: SegmentHandle,
    state: readonly TensorHandle[],
    wanted: readonly string[],
  ): TensorHandle[];
  setGraphCapture(call: number, model: ModelHandle, enabled: boolean): void;
  capturedGraphs(call: number, model: ModelHandle): Promise<{ steps: number; refusal: string }>;
  decoderGraphs(call: number, decoder: DecoderHandle): Promise<{ steps: number; refusal: string }>;
  logits(
    call: number,
    model: ModelHandle,
    segment: SegmentHandle,
    state: readonly TensorHandle[],
    prefix: TensorHandle,
  ): TensorHandle[];
  createDecoder(model: ModelHandle, slots: number, deterministic: boolean): DecoderHandle;
  dropDecoder(call: number, decoder: DecoderHandle): void;
  beginSegment(
    call: number,
    decoder: DecoderHandle,
    slots: readonly number[],
    segment: SegmentHandle,
    state: readonly TensorHandle[],
  ): TensorHandle[];
  decodeStep(
    call: number,
    decoder: DecoderHandle,
    tokens: readonly number[] | readonly [TensorHandle],
    slots: readonly number[],
    positions: readonly number[],
  ): TensorHandle[];
  decodeRun(
    call: number,
    decoder: DecoderHandle,
    logitsPointsBiasGaps: readonly TensorHandle[],
    samplings: readonly NativeSampling[],
    of: readonly number[],
    slots: readonly number[],
    positions: readonly number[],
    draws: readonly number[],
    takeLast: boolean,
  ): TensorHandle[];
  decodePrefill(
    call: number,
    decoder: DecoderHandle,
    tokens: readonly number[],
    slot: number,
    position: number,
  ): TensorHandle[];
  endSegment(
    call: number,
    decoder: DecoderHandle,
    slots: readonly number[],
    positions: readonly number[],
    parts: number,
  ): TensorHandle[];
  parameter(call: number, model: ModelHandle, name: string): TensorHandle[];
  parameterGradient(call: number, model: ModelHandle, name: string): TensorHandle[];
  parameterLeaf(call: number, model: ModelHandle, name: string): TensorHandle[];
  assign(call: number, model: ModelHandle, name: string, value: TensorHandle): void;
  zeroGradients(call: number, model: ModelHandle): void;
  clipGradients(call: number, model: ModelHandle, most: number, whole?: TensorHandle): TensorHandle[];
  createAdamW(
    model: ModelHandle,
    beta1: number,
    beta2: number,
    eps: number,
    weightDecay: number,
    muon: boolean,
    group: GroupHandle | null,
  ): OptimizerHandle;
  dropAdamW(optimizer: OptimizerHandle): void;
  adamwStep(call: number, optimizer: OptimizerHandle, learningRate: number, norm: TensorHandle, clip: number): void;
  adamwState(call: number, optimizer: OptimizerHandle, name: string): TensorHandle[];
  adamwAssign(call: number, optimizer: OptimizerHandle, name: string, value: TensorHandle): void;

  joinGroup(membership: NativeMembership): Promise<GroupHandle>;
  groupSet(group: GroupHandle, key: string, value: string): Promise<void>;
  /** Waits for the key; null: it did not come within `seconds`. */
  groupGet(group: GroupHandle, key: string, seconds: number): Promise<string | null>;
  groupAdd(group: GroupHandle, key: string, number: number): Promise<number>;
  groupPulses(group: GroupHandle): NativePulses;
  groupSay(group: GroupHandle, words: string): void;
  groupAbort(group: GroupHandle, reason: string): void;
  groupLeave(group: GroupHandle): void;
  allReduce(call: number, group: GroupHandle, tensor: TensorHandle): TensorHandle[];
  broadcast(call: number, group: GroupHandle, tensor: TensorHandle, root: number): TensorHandle[];
  gatherRows(call: number, group: GroupHandle, tensor: TensorHandle, first: number, total: number): TensorHandle[];
  reduceGradients(
    call: number,
    group: GroupHandle,
    models: readonly ModelHandle[],
    extras: TensorHandle,
  ): TensorHandle[];
}
