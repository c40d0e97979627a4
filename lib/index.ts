/**
 * memformer: a transformer with a memory of constant size, trained by memory replay back-propagation. Importing loads
 * nothing native.
 */
export { bptt } from "./gradients/bptt.ts";
export type { TokenizerTexts } from "./checkpoint/model-files.ts";
export { checkpointing } from "./gradients/checkpointing.ts";
export {
  modelConfig,
  modelSchema,
  plainOptions,
  presets,
  type ModelConfig,
  type ModelOptions,
  type PresetName,
} from "./model/config.ts";
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
  type SlotMeasure,
} from "./diagnose/measure.ts";
export { MemformerError, isMemformerError, type ErrorCode } from "./errors.ts";
export {
  ABLATIONS,
  evaluate,
  type Ablation,
  type EvaluateOptions,
  type Evaluation,
  type Score,
} from "./evaluate/evaluate.ts";
export {
  importLucidrains,
  importSchema,
  type Imported,
  type ImportedTensor,
  type ImportOptions,
} from "./import/lucidrains.ts";
export { gradientMethods, type GradientMethodName } from "./gradients/methods.ts";
export { inMicroBatches } from "./gradients/micro-batch.ts";
export { Memformer, type CreateOptions, type LoadOptions, type Observed } from "./model/memformer.ts";
export type { ParameterSpec } from "./model/parameter-spec.ts";
export type { ModelDescription, Parameter } from "./model/parameter.ts";
export { mrbp } from "./gradients/mrbp.ts";
export type { Device, DeviceName } from "./native/cuda.ts";
export { AdamW, type AdamWOptions } from "./train/optimizer.ts";
export { ComposedModel, composedParameters, type ComposedOptions, type ComposedParameters } from "./model/composed.ts";
export { JointModel, type JointDescription, type Member } from "./model/joint.ts";
export { tokenLoss } from "./model/token-loss.ts";
export type {
  EvaluatedModel,
  Recurrence,
  Replayed,
  State,
  StatePart,
  Step,
  StepOptions,
  TrainableModel,
} from "./model/recurrence.ts";
export {
  cancellable,
  memoryUsage,
  writeProfile,
  resetPeakMemory,
  configureRuntime,
  synchronize,
  trimMemory,
  type MemoryUsage,
  type RuntimeFacts,
  type RuntimeOptions,
} from "./engine/runtime.ts";
export { sampler, type LogitBias, type Sampler, type SampleOptions, type SampleSettings } from "./generate/sample.ts";
export type { DrawOptions, LogitsContext, LogitsProcessor, SamplerSettings, TokenLogprob } from "./generate/draw.ts";
export { learningRateAt, type Schedule } from "./train/schedule.ts";
export { disposeSegment, uploadSegment, type SegmentTensors } from "./model/segment-tensors.ts";
export { PADDING, type Segment } from "./data/segment.ts";
export type { Scored, ScoringState } from "./model/scoring.ts";
export type { SessionModel } from "./generate/session-model.ts";
export type { Decoder, DecoderOptions, RunSampling } from "./generate/decoder.ts";
export type { GenerateOptions, OnAbort, ReadOptions } from "./generate/generate-options.ts";
export type { ReadInput, TextOrTokens } from "./generate/read-input.ts";
export type { FinishReason, GeneratedToken, Piece } from "./generate/turn.ts";
export { Session } from "./generate/session.ts";
export type { MemoryWatcher, SegmentReached } from "./generate/memory-watcher.ts";
export { Scheduler } from "./generate/scheduler/scheduler.ts";
export type { SchedulerOptions, SchedulerReport, SchedulerStep } from "./generate/scheduler/scheduler-options.ts";
export {
  fairPolicy,
  type FairPolicyOptions,
  type SchedulerPolicy,
  type TurnView,
} from "./generate/scheduler/policy.ts";
export type { ScheduledTurn, TurnRequest } from "./generate/scheduler/scheduled-turn.ts";
export {
  applyOperator,
  backward,
  callOperator,
  callListOperator,
  Tensor,
  tidy,
  type DType,
  type NumberArray,
} from "./engine/tensor.ts";
export * as distributed from "./distributed/index.ts";
export { trainSchema, type TrainConfig, type TrainOptions } from "./train/config.ts";
export { Trainer, type RunOptions, type TrainStep } from "./train/trainer.ts";
export {
  lossWeights,
  segmentSeed,
  type GradientMethod,
  type LossWeights,
  type WindowOptions,
  type WindowResult,
} from "./gradients/window.ts";
