/** Ids that a tokenizer counts in its vocabulary and has no token for, kept from being drawn. */
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import type { SessionModel } from "./session-model.ts";
import { placed, Tensor } from "../engine/tensor.ts";

/**
 * (1, V) float32 on the model's device, to be added to logits: -infinity for the tokenizer's gaps, but for the model's
 * BOS, else 0. Undefined for a tokenizer without gaps.
 */
export function tokenGaps(
  tokenizer: Tokenizer,
  { config, device }: Pick<SessionModel, "config" | "device">,
): Tensor | undefined {
  const mask = new Float32Array(config.vocabulary);
  for (let id = 0; id < tokenizer.vocabulary; id++)
    if (id !== config.bos && tokenizer.isToken?.(id) === false) mask[id] = -Infinity;
  if (!mask.includes(-Infinity)) return undefined;
  return placed(Tensor.from(mask, [1, mask.length]), device);
}
