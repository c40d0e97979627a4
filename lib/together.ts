/** How many segments a step of MRBP goes over on a GPU: small products leave one idle, and activations take memory. */
import type { ModelConfig } from "./config.ts";

/** Numbers of width in a step, beyond which a GPU gains no more: 65,536 tokens of width 512. */
const enough = 2 ** 25;
/** Of what the parameters leave of the device's memory, what the activations of a step may take. */
const share = 3 / 5;
/** Of a parameter: master, gradient, AdamW's two moments, and what is computed with. */
const parameterBytes = 18;

/**
 * As many consecutive segments of B rows of T tokens as make a step that is large enough, and as three fifths of the memory hold that the
 * parameters leave; 1 at least.
 */
export function segmentsTogether(config: ModelConfig, parameters: number, batch: number, length: number, deviceBytes: number): number {
  const wanted = Math.ceil(enough / (batch * length * config.width));
  const fitting = Math.floor(share * (deviceBytes - parameterBytes * parameters) / activationBytes(config, batch, length));
  return Math.max(1, Math.min(wanted, fitting));
}

/**
 * About what the backward pass of a segment holds, in two-byte numbers and float32 sums. A layer keeps for a token three residual sums
 * and what six products read (34 bytes a number of width), and the inside of its feed-forward twice; every layer that reads the memory
 * keeps its keys and values, and they share the standardized slots.
 */
export function activationBytes(config: ModelConfig, batch: number, length: number): number {
  const { variant, width, feedForward, memorySlots, encoderLayers, decoderLayers, precision } = config;
  const encoders = variant === "decoder" ? 0 : encoderLayers, decoders = variant === "encoder" ? 0 : decoderLayers;
  const readers = variant === "decoder" ? decoders : encoders;
  const token = (encoders + decoders) * (34 * width + 4 * feedForward), slot = width * (4 * readers + 18);
  const wider = precision === "float32" ? 1.7 : precision === "float64" ? 3.4 : 1;
  return batch * (length * token + memorySlots * slot) * wider;
}
