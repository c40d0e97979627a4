/**
 * The configuration of a model: every option once, with its default and help text. CLI flags, help and config.json come
 * from here.
 */
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { parseOptions } from "../options.ts";
import { architectures, type Architecture, type ArchitectureName } from "./architectures/index.ts";
import { writers, type WriterName } from "./writers.ts";

const count = (default_: number, help: string): z.ZodDefault<z.ZodInt> =>
  z.int().positive().default(default_).describe(help);

/** For help: `name (what it is), …`. */
function described(table: Readonly<Record<string, { readonly help: string }>>): string {
  return Object.entries(table)
    .map(([name, { help }]) => `${name} (${help})`)
    .join(", ");
}

/** Every option of a model, with its default and help text. */
export const modelSchema = z.strictObject({
  architecture: z
    .enum(Object.keys(architectures) as [ArchitectureName, ...ArchitectureName[]])
    .default("encoder-decoder")
    .describe(described(architectures)),
  vocabulary: count(257, "V, tokens in the vocabulary, including BOS; 257 for bytes"),
  bos: z.int().nonnegative().default(256).describe("the token that starts a document; 256 for bytes"),
  width: count(256, "D, width of the model and of a memory slot"),
  heads: count(4, "H, attention heads; divides width"),
  feedForward: count(1024, "width inside the feed-forward layers"),
  encoderLayers: count(4, "layers that read the memory (encoder and encoder-decoder)"),
  decoderLayers: count(4, "layers of the decoder"),
  memorySlots: count(64, "M, memory slots; the state is M x D numbers per row; of rmt, its memory tokens"),
  segmentLength: count(64, "T, tokens of a segment"),
  writer: z
    .enum(Object.keys(writers) as [WriterName, ...WriterName[]])
    .default("slot-attention")
    .describe(`how slots take in a segment: ${described(writers)}`),
  writerHeads: z
    .int()
    .nonnegative()
    .default(0)
    .describe("attention heads of the writer; divides width; 0: as many as heads"),
  writerSteps: count(1, "how many times the slots take in each segment"),
  writerBias: z.boolean().default(false).describe("add biases to the writer's query, key and value"),
  memory: z
    .boolean()
    .default(true)
    .describe(
      "keep the memory from segment to segment; a model that does not (a twin) starts each segment from the learned initial memory",
    ),
  constantSlots: z
    .int()
    .nonnegative()
    .default(0)
    .describe("learned slots that are read beside the memory and never written"),
  readGate: z
    .boolean()
    .default(false)
    .describe(
      "learn a gate per channel on what a layer reads from the memory, starting at 0 (excludes readStart zero)",
    ),
  residualStart: z
    .enum(["scaled", "balanced", "zero"])
    .default("zero")
    .describe(
      "initial scale of the last weights of residual branches: all branches add up to variance 1 (scaled), to the variance of the embeddings (balanced), or to zero (zero)",
    ),
  readStart: z
    .enum(["same", "scaled", "balanced", "zero"])
    .default("same")
    .describe("the same for branches that read the memory or the encoder; same: as residualStart"),
  embeddingDeviation: z.number().positive().default(0.02).describe("initial standard deviation of the embeddings"),
  embeddingNorm: z
    .boolean()
    .default(false)
    .describe(
      "divide embedded tokens by their root mean square, so that they enter at the scale of what is added to them",
    ),
  queryKeyNorm: z
    .boolean()
    .default(true)
    .describe("divide queries and keys by their root mean square in the layers' attentions"),
  writerQueryKeyNorm: z
    .boolean()
    .default(true)
    .describe("divide queries and keys likewise in the writer, with a learned gain per head"),
  writerSharpness: z
    .number()
    .nonnegative()
    .default(0)
    .describe(
      "initial deviation of the writer's logits for tokens; a learned gain on the slots' own keys keeps their weight; 0: no such gain",
    ),
  writerValues: z
    .enum(["plain", "centered", "normed"])
    .default("normed")
    .describe(
      "what a slot takes from a token: its value (plain), the value minus the segment's mean (centered), or the value scaled to norm writerValueGain (normed)",
    ),
  writerValueGain: z
    .number()
    .positive()
    .default(1)
    .describe("initial size of the writer's values relative to a slot's; with normed values, their size throughout"),
  forgettingBias: z
    .number()
    .positive()
    .default(0.02)
    .describe(
      "initial ||v|| of bmn: a slot that keeps its content still loses half of it in ln 2 / ln(1 + ||v||) segments",
    ),
  forgettingBiasLeast: z
    .number()
    .nonnegative()
    .default(0)
    .describe(
      "initial ||v|| of the last slot, with the slots between spaced evenly in its logarithm; 0: the same for all slots",
    ),
  forgettingScaled: z
    .boolean()
    .default(true)
    .describe("learn v in units of its initial norm, so that a small v does not turn faster"),
  memoryGradient: z
    .number()
    .min(0)
    .max(1)
    .default(1)
    .describe("factor on the memory's gradient at each border between segments; 1: the exact gradient"),
  memoryGradientLimit: z
    .number()
    .nonnegative()
    .default(2)
    .describe("largest norm of a row's memory gradient at each border, as a multiple of the batch's mean; 0: no limit"),
  writerTemperature: z
    .number()
    .positive()
    .default(0.25)
    .describe("temperature of the writer's softmax; below 1 sharpens"),
  forgetting: z
    .enum(["bmn", "normalize-only", "none"])
    .default("bmn")
    .describe("biased memory normalization (bmn), normalization alone, or nothing"),
  memoryNorm: z.boolean().default(true).describe("layer-normalize the slots where they are read and written"),
  position: z.enum(["rotary", "relative", "t5"]).default("rotary").describe("position scheme inside a segment"),
  positionBuckets: z
    .enum(["t5", "lucidrains"])
    .default("t5")
    .describe(
      "how position t5 assigns its buckets: as T5 does, or with encoder and decoder interchanged, as in lucidrains' port",
    ),
  cacheLength: count(
    64,
    "tokens before the segment whose layers' inputs transformer-xl, compressive-transformer and cached-decoder keep",
  ),
  compressionRate: count(3, "tokens that compressive-transformer makes one compressed place of"),
  compressedLength: count(64, "compressed places that compressive-transformer keeps"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout rate, replayed exactly by MRBP"),
  shareEmbedding: z.boolean().default(true).describe("share one embedding between encoder and decoder"),
  tieEmbedding: z
    .boolean()
    .default(true)
    .describe("share the embedding (the decoder's, where there are two) with the output projection"),
  outputBias: z.boolean().default(false).describe("add a bias per token to the output projection"),
  precision: z
    .enum(["float32", "bfloat16", "float16", "float64"])
    .default("float32")
    .describe("dtype of matrix products (float16 needs a GPU); weights are float32 (float64 for gradient checks)"),
});

/** A complete model configuration. */
export type ModelConfig = z.output<typeof modelSchema>;
/** A model configuration as a user gives it: what is left out has its default. */
export type ModelOptions = z.input<typeof modelSchema>;

/**
 * The value of each option in models older than the option, which is what a config.json without it means: the plain
 * form of the paper. A new option of {@link modelSchema} that changes a model gets a line here.
 */
export const plainOptions = {
  memory: true,
  constantSlots: 0,
  readGate: false,
  residualStart: "scaled",
  readStart: "same",
  embeddingDeviation: 0.02,
  embeddingNorm: false,
  queryKeyNorm: false,
  writerQueryKeyNorm: false,
  writerSharpness: 0,
  writerValues: "plain",
  writerValueGain: 1,
  forgettingBias: 1,
  forgettingBiasLeast: 0,
  forgettingScaled: false,
  memoryGradient: 1,
  memoryGradientLimit: 0,
} as const satisfies ModelOptions;

/**
 * Named starting points; any option given beside `preset` wins. `demo` is what configs/demo.json trains; `wiki` and
 * `mnist` are the paper's models for WikiText-103 and for MNIST's pixels.
 */
export const presets = {
  tiny: {
    width: 64,
    heads: 2,
    feedForward: 128,
    encoderLayers: 1,
    decoderLayers: 1,
    memorySlots: 8,
    segmentLength: 16,
  },
  demo: {
    width: 128,
    heads: 4,
    feedForward: 512,
    encoderLayers: 2,
    decoderLayers: 2,
    memorySlots: 32,
    segmentLength: 64,
  },
  small: {},
  base: {
    width: 512,
    heads: 8,
    feedForward: 2048,
    encoderLayers: 4,
    decoderLayers: 8,
    memorySlots: 128,
    segmentLength: 128,
  },
  wiki: {
    vocabulary: 32_000,
    bos: 0,
    width: 512,
    heads: 8,
    feedForward: 2048,
    encoderLayers: 4,
    decoderLayers: 16,
    memorySlots: 1024,
    segmentLength: 128,
  },
  mnist: {
    vocabulary: 257,
    width: 128,
    heads: 4,
    feedForward: 256,
    encoderLayers: 4,
    decoderLayers: 8,
    memorySlots: 64,
    segmentLength: 56,
  },
} as const satisfies Record<string, ModelOptions>;

/** The name of a preset. */
export type PresetName = keyof typeof presets;

/** The whole configuration from what was given. Throws MemformerError CONFIG, naming a mistyped option's nearest. */
export function modelConfig(options: ModelOptions = {}): ModelConfig {
  const config = parseOptions(modelSchema, options, "model");
  const per = config.width / config.heads;
  const refuse = (sentence: string): never => {
    throw new MemformerError("CONFIG", `model: ${sentence}`);
  };
  if (!Number.isInteger(per)) refuse(`heads must divide width, got ${config.heads} heads and width ${config.width}`);
  if (config.writerHeads > 0 && config.width % config.writerHeads !== 0) {
    refuse(`writerHeads must divide width, got ${config.writerHeads} heads and width ${config.width}`);
  }
  const architecture: Architecture = architectures[config.architecture];
  if (!config.shareEmbedding && !architecture.separateDecoder) {
    refuse(`shareEmbedding false needs an encoder and a decoder, got architecture "${config.architecture}"`);
  }
  if (config.position === "rotary" && per % 2 !== 0)
    refuse(`position "rotary" needs an even width per head, got ${per}`);
  const reads = config.readStart === "same" ? config.residualStart : config.readStart;
  if (config.readGate && reads === "zero")
    refuse('readGate starts at 0, and needs reads that do not: readStart "balanced" or "scaled"');
  if (config.forgettingBiasLeast > config.forgettingBias)
    refuse(
      `forgettingBiasLeast must be at most forgettingBias ${config.forgettingBias}, got ${config.forgettingBiasLeast}`,
    );
  if (config.bos >= config.vocabulary) refuse(`bos must be below vocabulary ${config.vocabulary}, got ${config.bos}`);
  return config;
}
