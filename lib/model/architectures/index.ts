/** The architectures that the engine has, by name: one file each, and its line here. */
import type { Architecture } from "./architecture.ts";
import { cachedDecoder } from "./cached-decoder.ts";
import { compressiveTransformer } from "./compressive-transformer.ts";
import { decoder } from "./decoder.ts";
import { encoder } from "./encoder.ts";
import { encoderDecoder } from "./encoder-decoder.ts";
import { gatedDelta } from "./gated-delta.ts";
import { lstm } from "./lstm.ts";
import { rmt } from "./rmt.ts";
import { transformerXl } from "./transformer-xl.ts";

export type { Architecture, SegmentWork, Sizes } from "./architecture.ts";

export const architectures = {
  "encoder-decoder": encoderDecoder,
  encoder,
  decoder,
  "cached-decoder": cachedDecoder,
  lstm,
  "transformer-xl": transformerXl,
  "compressive-transformer": compressiveTransformer,
  rmt,
  "gated-delta": gatedDelta,
} as const satisfies Record<string, Architecture>;

export type ArchitectureName = keyof typeof architectures;

/** Those that continue text, as a sentence names them: `"encoder-decoder" or "decoder"`. */
export function generating(): string {
  return Object.entries<Architecture>(architectures)
    .filter(([, { generates }]) => generates)
    .map(([name]) => `"${name}"`)
    .join(" or ");
}
