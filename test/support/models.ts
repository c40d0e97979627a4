/** Small models, windows of random segments with every kind of padding, and their gradients as plain numbers. */
import {
  Memformer,
  modelSchema,
  PADDING,
  plainOptions,
  Random,
  Tensor,
  type CreateOptions,
  type Segment,
} from "../../lib/index.ts";
import { architectures } from "../../lib/model/architectures/index.ts";

// Operators on tiny tensors are short: threads that spin while they wait for one another starve on a busy machine.
process.env["OMP_WAIT_POLICY"] ??= "passive";

const { architecture: variant, writer, position } = modelSchema.shape;
/**
 * Every architecture, memory writer and position scheme there is: test/models.registry.spec.ts compares the engine's.
 */
export const variants = variant.unwrap().options;
/** Those whose state is a memory of slots, with a writer and its options. */
export const memformers = variants.filter((name) => architectures[name].writesFrom !== undefined);
/** Those whose state is something else: test/models.baselines.spec.ts proves each against a plain program. */
export const baselines = variants.filter((name) => !memformers.includes(name)) as Exclude<
  (typeof variants)[number],
  "encoder-decoder" | "encoder" | "decoder" | "cached-decoder"
>[];
export const writers = writer.unwrap().options;
export const positions = position.unwrap().options;
/** Every architecture with the writers and position schemes that it has. */
export const compositions = variants.flatMap((architecture) => {
  const written = memformers.includes(architecture),
    positioned = (written && architecture !== "cached-decoder") || architecture === "rmt";
  return (written ? writers : writers.slice(0, 1)).flatMap((writer) =>
    (positioned ? positions : positions.slice(0, 1)).map((position) => ({ architecture, writer, position })),
  );
});

/** A model small enough to be trained thousands of times: D 16, M 3, T 6, two layers where two can differ from one. */
export async function tinyModel(options: CreateOptions = {}): Promise<Memformer> {
  return Memformer.create({
    preset: "tiny",
    vocabulary: 29,
    bos: 28,
    width: 16,
    heads: 2,
    feedForward: 24,
    encoderLayers: 2,
    decoderLayers: 2,
    memorySlots: 3,
    cacheLength: 9,
    compressionRate: 2,
    compressedLength: 4,
    segmentLength: 6,
    precision: "float64",
    ...plainOptions,
    ...options,
  });
}

/**
 * Options of a model that decide how it starts, what it normalizes and what it remembers, each away from its plain
 * value.
 */
export const recipeOptions = [
  { memory: false },
  { constantSlots: 2 },
  { constantSlots: 2, memoryNorm: false },
  { readGate: true },
  { residualStart: "zero" },
  { residualStart: "zero", readStart: "balanced" },
  { embeddingNorm: true },
  { queryKeyNorm: true },
  { queryKeyNorm: true, position: "relative" },
  { queryKeyNorm: true, position: "t5" },
  { writerQueryKeyNorm: true },
  { writerSharpness: 2 },
  { writerSharpness: 2, writerQueryKeyNorm: true, writer: "gru" },
  { writerValues: "centered" },
  { writerValues: "normed", writerValueGain: 2 },
  { writerValueGain: 3, embeddingDeviation: 0.5 },
  { forgettingBias: 0.1, forgettingBiasLeast: 0.01 },
  { forgettingBias: 0.1, forgettingBiasLeast: 0.01, forgettingScaled: true },
  { memoryGradient: 0.5 },
  { memoryGradient: 0.9, memoryGradientLimit: 0.8 },
] as const satisfies readonly CreateOptions[];

/** Gives every parameter noise, so that none sits at a value (zero bias, unit gain) that hides a mistake. */
export async function perturb(model: Memformer, deviation = 0.3, seed = 5): Promise<void> {
  const random = new Random(seed);
  const normal = (): number => {
    const u = (random.next() + 1) / 2 ** 32,
      v = random.next() / 2 ** 32;
    return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * v) * deviation;
  };
  for (const { name, shape } of model.parameters) {
    using now = model.parameter(name);
    const values = Float64Array.from((await now.data()) as Float64Array, (value) => value + normal());
    using noisy = Tensor.from(values, shape);
    model.assign(name, noisy);
  }
}

/**
 * Makes the token that ends a document as good as impossible to draw, so that what draws by a new seed is as long as it
 * was asked to be. A tied head has no bias: a direction that the last normalization always adds is that token's alone
 * to be against.
 */
export async function neverEnds(model: Memformer): Promise<void> {
  const { width, bos } = model.config;
  const adds = async (name: string, by: (at: number) => number): Promise<void> => {
    using now = model.parameter(name);
    const { shape } = model.parameters.find((parameter) => parameter.name === name)!;
    const values = Float64Array.from((await now.data()) as Float64Array, (value, at) => value + by(at));
    using moved = Tensor.from(values, shape);
    model.assign(name, moved);
  };
  const along = (at: number): number => (at % 2 === 0 ? 1 : -1) / Math.sqrt(width);
  await adds(`${model.config.architecture === "encoder" ? "encoder" : "decoder"}.norm.bias`, (at) => 8 * along(at));
  await adds("embedding.weight", (at) => along(at) * (Math.floor(at / width) === bos ? -1 : 1));
}

export interface WindowShape {
  readonly batch?: number;
  readonly segments?: number;
  readonly seed?: number;
  /**
   * Padding: none (false), "behind" the tokens of a row, of every length from none to all, or true: behind those of row
   * 0, before those of row 1, all of row 2. Default true.
   */
  readonly ragged?: boolean | "behind";
  /** Whether rows restart, row 3 mid-window. Default: as ragged. */
  readonly restarts?: boolean;
}

/** Consecutive random segments for `model`. */
export function randomWindow(model: Memformer, shape: WindowShape = {}): Segment[] {
  const { batch = 4, segments = 4, seed = 1, ragged = true, restarts = ragged !== false } = shape;
  const { segmentLength: T, vocabulary, bos } = model.config,
    random = new Random(seed);
  const highest = Math.min(bos, vocabulary);
  const tokens = (): Int32Array => Int32Array.from({ length: batch * T }, () => random.below(highest));
  let source = tokens();
  return Array.from({ length: segments }, (_, t) => {
    const target = tokens(),
      reset = new Uint8Array(batch),
      read = source.slice();
    const row = (array: Int32Array, index: number): Int32Array => array.subarray(index * T, (index + 1) * T);
    if (ragged === "behind") {
      // Source and target of other lengths: the one is a segment before the other.
      for (let b = 0; b < batch; b++) {
        row(read, b).fill(PADDING, random.below(T + 1));
        row(target, b).fill(PADDING, (b + t) % (T + 1));
      }
    } else if (ragged) {
      if (t % 2 === 0 && batch > 0) for (const array of [read, target]) row(array, 0).fill(PADDING, T - 2);
      if (t % 2 === 1 && batch > 1) for (const array of [read, target]) row(array, 1).fill(PADDING, 0, 2);
      if (t === 1 && batch > 2) for (const array of [read, target]) row(array, 2).fill(PADDING);
    }
    if (restarts) {
      if (t === 2 && batch > 3) reset[3] = 1;
      if (t === 0) reset[0] = 1;
    }
    source = target;
    return { batch, length: T, source: read, target, reset };
  });
}

/** All gradients gathered so far, by parameter; they are dropped. */
export async function takeGradients(model: Memformer): Promise<Map<string, Float64Array>> {
  const gradients = new Map<string, Float64Array>();
  for (const { name } of model.parameters) {
    using gradient = model.gradient(name);
    gradients.set(name, Float64Array.from((await gradient.data()) as Float64Array));
  }
  model.zeroGradients();
  return gradients;
}

/** |a - b| / |b| over all numbers of both maps. */
export function relativeError(a: ReadonlyMap<string, Float64Array>, b: ReadonlyMap<string, Float64Array>): number {
  let difference = 0,
    size = 0;
  for (const [name, values] of b) {
    const others = a.get(name)!;
    values.forEach((value, i) => {
      difference += (others[i]! - value) ** 2;
      size += value ** 2;
    });
  }
  return difference === 0 ? 0 : Math.sqrt(difference / size);
}

/** The numbers of tensors, which are freed. */
export async function numbers(tensors: readonly Tensor[]): Promise<number[][]> {
  const read = await Promise.all(tensors.map(async (tensor) => Array.from(await tensor.data(), Number)));
  for (const tensor of tensors) tensor.dispose();
  return read;
}

/** The bytes of a tensor, as text to compare. */
export async function bits(tensor: Tensor): Promise<string> {
  return Buffer.from((await tensor.read()).data).toString("hex");
}
