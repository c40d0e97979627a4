/**
 * memformer: a transformer with a memory of constant size, trained through long time. Importing loads nothing native.
 */
export { bptt } from "./bptt.ts";
export type { TokenizerTexts } from "./checkpoint/model-folder.ts";
export { checkpointing } from "./checkpointing.ts";
export {
  modelConfig,
  modelSchema,
  plainOptions,
  presets,
  type ModelConfig,
  type ModelOptions,
  type PresetName,
} from "./config.ts";
export * from "./data/index.ts";
export { findings, type Findings, type Verdict } from "./diagnose/findings.ts";
export {
  measure as diagnose,
  type Costs,
  type DiagnoseOptions,
  type Diagnosis,
  type LagMeasure,
  type LayerMeasure,
  type MemoryMeasure,
} from "./diagnose/measure.ts";
export { MemformerError, isMemformerError, type ErrorCode } from "./errors.ts";
export { ABLATIONS, evaluate, type Ablation, type EvaluateOptions, type Evaluation, type Score } from "./evaluate.ts";
export {
  importLucidrains,
  importSchema,
  type Imported,
  type ImportedTensor,
  type ImportOptions,
} from "./import/lucidrains.ts";
export { gradientMethods, type GradientMethodName } from "./methods.ts";
export { inMicroBatches } from "./micro-batch.ts";
export { Memformer, type CreateOptions, type LoadOptions, type Observed, type Parameter } from "./model.ts";
export { mrbp } from "./mrbp.ts";
export type { Device, DeviceName } from "./native/cuda.ts";
export { AdamW, type AdamWOptions } from "./optimizer.ts";
export type { Recurrence, Replayed, State, Step, StepOptions } from "./recurrence.ts";
export {
  cancellable,
  memory,
  profile,
  resetPeakMemory,
  runtime,
  synchronize,
  trimMemory,
  type MemoryUse,
  type RuntimeFacts,
  type RuntimeOptions,
} from "./runtime.ts";
export { sampler, type Sampler, type SampleOptions } from "./sample.ts";
export { learningRate, type Schedule } from "./schedule.ts";
export { disposeSegment, upload, type SegmentTensors } from "./segment-tensors.ts";
export { PADDING, type Segment } from "./segment.ts";
export type { Scored, ScoringState } from "./scoring.ts";
export { Session, type GenerateOptions } from "./session.ts";
export { apply, backward, op, opList, Tensor, tidy, type DType, type NumberArray } from "./tensor.ts";
export { trainSchema, type TrainConfig, type TrainOptions } from "./train-config.ts";
export { Trainer, type RunOptions, type TrainStep } from "./train.ts";
export {
  lossWeights,
  segmentSeed,
  type GradientMethod,
  type LossWeights,
  type WindowOptions,
  type WindowResult,
} from "./window.ts";
