/**
 * How many segments a step of MRBP or of evaluation goes over on a GPU: small products leave one idle, and activations
 * take memory.
 */
import type { ModelConfig } from "./config.ts";

/** Numbers of width in a step, beyond which a GPU gains no more: 65,536 tokens of width 512. */
const enough = 2 ** 25;
/** The share of the device memory left after the parameters that a step's activations may take. */
const share = 3 / 5;
/** Of a parameter: master, gradient, AdamW's two moments, and what is computed with. */
const parameterBytes = 18;

/**
 * As many consecutive segments of B rows of T tokens as make a step that is large enough, and as three fifths of the
 * memory hold that the parameters leave; 1 at least.
 */
export function segmentsPerTrainingStep(
  config: ModelConfig,
  parameters: number,
  batch: number,
  length: number,
  deviceBytes: number,
): number {
  const wanted = Math.ceil(enough / (batch * length * config.width));
  const fitting = Math.floor(
    (share * (deviceBytes - parameterBytes * parameters)) / activationBytes(config, batch, length),
  );
  return Math.max(1, Math.min(wanted, fitting));
}

/** Of the same, what a step of evaluation may take: it runs beside training. */
const scoringShare = 1 / 5;

/** The same for evaluation, which keeps no activations but the segments' memories. 1 at least. */
export function segmentsPerScoringStep(
  config: ModelConfig,
  parameters: number,
  batch: number,
  length: number,
  deviceBytes: number,
): number {
  const wanted = Math.ceil(enough / (batch * length * config.width));
  const fitting = Math.floor(
    (scoringShare * (deviceBytes - parameterBytes * parameters)) / scoringBytes(config, batch, length),
  );
  return Math.max(1, Math.min(wanted, fitting));
}

/**
 * About what a segment of evaluation holds at its peak: of a slot its memory before every segment, as it is, held,
 * shuffled and above each other (float32), and one layer's normed slots, keys and values; of a token one layer's sums
 * and products.
 */
function scoringBytes(
  { width, feedForward, memorySlots, precision }: ModelConfig,
  batch: number,
  length: number,
): number {
  const wider = precision === "float64" ? 4 : precision === "float32" ? 2 : 1;
  return batch * wider * (memorySlots * width * 32 + length * (width * 32 + feedForward * 6));
}

/**
 * About what the backward pass of a segment holds, in two-byte numbers and float32 sums. A layer keeps for a token
 * three residual sums and what six products read (34 bytes a number of width), and the inside of its feed-forward
 * twice; every layer that reads the memory keeps its keys and values, and they share the standardized slots.
 */
export function activationBytes(config: ModelConfig, batch: number, length: number): number {
  const { architecture, width, feedForward, memorySlots, encoderLayers, decoderLayers, precision } = config;
  const encoders = architecture === "decoder" ? 0 : encoderLayers,
    decoders = architecture === "encoder" ? 0 : decoderLayers;
  const readers = architecture === "decoder" ? decoders : encoders;
  const token = (encoders + decoders) * (34 * width + 4 * feedForward),
    slot = width * (4 * readers + 18);
  const wider = precision === "float32" ? 1.7 : precision === "float64" ? 3.4 : 1;
  return batch * (length * token + memorySlots * slot) * wider;
}
