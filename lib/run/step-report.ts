/** Reports a training step: in full to the log, the essentials to the display. */
import type { TokenSource } from "../data/index.ts";
import { formatBytes, formatNumber, formatRate } from "../log/format.ts";
import type { Progress } from "../log/progress.ts";
import type { RunLog } from "../log/run-log.ts";
import type { TrainStep } from "../train/trainer.ts";

/**
 * `text`: the training text; its bytes per token turn nats per token into bits per byte. `segments`: how many of each
 * lane an evaluation scores; default all held-out text.
 */
export function reportStep(
  step: TrainStep,
  text: TokenSource,
  log: RunLog,
  progress: Progress,
  segments?: number,
): void {
  const bitsPerByte = ((step.loss / Math.LN2) * text.tokens) / text.bytes;
  const inUse = step.memoryUsage.deviceBytes || step.memoryUsage.hostBytes;
  log.record({
    step: step.step,
    "train/loss": step.loss,
    "train/bits-per-byte": bitsPerByte,
    "train/gradient-norm": step.gradientNorm,
    "train/memory-gradient-norm": step.memoryGradientNorm,
    "train/learning-rate": step.learningRate,
    "train/tokens": step.tokens,
    "run/tokens-per-second": step.tokensPerSecond,
    "run/memory-bytes": inUse,
    ...(step.evaluation !== undefined && { "valid/bits-per-byte": step.evaluation }),
  });
  progress.update(step.step, {
    loss: formatNumber(step.loss),
    "bits/byte": formatNumber(bitsPerByte, 3),
    speed: formatRate(step.tokensPerSecond),
    gradient: formatNumber(step.gradientNorm, 3),
    "of memory": formatNumber(step.memoryGradientNorm, 3),
    memory: formatBytes(inUse),
  });
  if (step.evaluation !== undefined) {
    const part = segments === undefined ? "" : `, of the first ${segments} segments of each lane`;
    progress.note(`step ${step.step}: held-out bits per byte ${formatNumber(step.evaluation)}${part}`);
  }
  if (step.checkpoint !== undefined) log.flush();
}
