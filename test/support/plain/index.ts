/**
 * The plain program of each baseline, and of the decoder with a cache, which proves the engine's: losses, state, and
 * gradients by differences.
 */
import type { baselines } from "../models.ts";
import { plainCachedDecoder } from "./cached-decoder.ts";
import { plainCompressiveTransformer } from "./compressive-transformer.ts";
import { plainGatedDelta } from "./gated-delta.ts";
import { plainLstm } from "./lstm.ts";
import type { PlainModel } from "./parts.ts";
import { plainRmt } from "./rmt.ts";
import { plainTransformerXl } from "./transformer-xl.ts";

export type { PlainModel, Weights } from "./parts.ts";

export const plain: Readonly<Record<(typeof baselines)[number] | "cached-decoder", PlainModel>> = {
  "cached-decoder": plainCachedDecoder,
  lstm: plainLstm,
  "transformer-xl": plainTransformerXl,
  "compressive-transformer": plainCompressiveTransformer,
  rmt: plainRmt,
  "gated-delta": plainGatedDelta,
};
