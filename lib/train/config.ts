/** The configuration of training: every option once, with its default and help text. */
import { z } from "zod";
import { gradientMethods } from "../gradients/methods.ts";

const methodNames = Object.keys(gradientMethods) as [keyof typeof gradientMethods, ...(keyof typeof gradientMethods)[]];

/** One number per segment of a window, of which training takes the shares. */
const shares = z.array(z.number().nonnegative()).refine((numbers) => numbers.some((number) => number > 0));
const weightsExpected = "expected tokens, segments, doubling, or a number per segment, none negative and not all 0";

/** Every option of training, with its default and help text. */
export const trainSchema = z.strictObject({
  steps: z.int().positive().default(1000).describe("optimizer steps"),
  horizon: z
    .int()
    .positive()
    .default(8)
    .describe("S, segments of a window: how far gradients travel through the memory"),
  horizonGrowth: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe(
      "share of the steps in which the horizon doubles until it reaches its full length; until then a step's segments are cut into shorter windows",
    ),
  statePassing: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe("share of rows that start a step from another row's memory"),
  overlap: z.int().nonnegative().default(0).describe("segments that a window shares with the previous one"),
  method: z.enum(methodNames).default("mrbp").describe("mrbp, bptt, or checkpointing per segment"),
  segmentsPerStep: z
    .int()
    .positive()
    .optional()
    .describe("segments that mrbp recomputes at once; default: as many as suit a GPU, 1 on a CPU"),
  microBatch: z
    .int()
    .positive()
    .optional()
    .describe("rows that go forward and back at once, to save memory; default: all lanes"),
  weights: z
    .union([z.enum(["tokens", "segments", "uniform", "doubling"]), shares], { error: weightsExpected })
    .default("tokens")
    .describe(
      "what counts equally: tokens (all that a step scores), segments (the mean of each), doubling (a segment counts twice the previous one), or a number per segment",
    ),
  accumulate: z.int().positive().default(1).describe("windows whose gradients add up to one step"),
  optimizer: z
    .enum(["adamw", "muon"])
    .default("muon")
    .describe("adamw, or muon: orthogonalized momentum for the layers' matrices, AdamW for everything else"),
  shardOptimizer: z
    .boolean()
    .default(false)
    .describe(
      "share out the optimizer's moments among the ranks (ZeRO-1): each keeps 1/N of them; the run stays the same to the bit",
    ),
  learningRate: z.number().positive().default(2e-3).describe("peak learning rate"),
  schedule: z
    .enum(["cosine", "linear", "constant"])
    .default("cosine")
    .describe("how the learning rate falls after the warm-up"),
  warmup: z.int().nonnegative().default(100).describe("steps of linear warm-up"),
  finalLearningRate: z
    .number()
    .min(0)
    .max(1)
    .default(0.1)
    .describe("learning rate of the last step, as a share of the peak"),
  weightDecay: z
    .number()
    .nonnegative()
    .default(0.1)
    .describe("weight decay of matrices; norms, biases, embeddings and v_bias have none"),
  beta1: z.number().min(0).lt(1).default(0.9).describe("AdamW's decay rate of the gradient's mean"),
  beta2: z.number().min(0).lt(1).default(0.95).describe("AdamW's decay rate of the squared gradient's mean"),
  eps: z.number().positive().default(1e-8).describe("AdamW's epsilon"),
  clip: z.number().nonnegative().default(1).describe("largest gradient norm; 0: no clipping"),
  seed: z.int().nonnegative().default(0).describe("decides every random draw of the run"),
  evaluateEvery: z.int().nonnegative().default(0).describe("steps between evaluations; 0: never"),
  saveEvery: z.int().nonnegative().default(0).describe("steps between checkpoints; 0: only at the end"),
  keep: z.int().positive().default(2).describe("newest checkpoints to keep, besides the best"),
});

/** What a run older than an option was trained with: it is not in its run.json. */
export const olderTraining = { optimizer: "adamw", learningRate: 1e-3 } as const satisfies Partial<TrainConfig>;

/** Complete options of training. */
export type TrainConfig = z.output<typeof trainSchema>;
/** Options of training as a user gives them: what is left out has its default. */
export type TrainOptions = z.input<typeof trainSchema>;
