/**
 * The Compressive Transformer, a rival of memories; native/nn/models/baselines/compressive_transformer.cpp computes it.
 */
import type { Architecture, Sizes } from "./architecture.ts";
import { transformerXl } from "./transformer-xl.ts";

/** Transformer-XL's, whose cache is as long as both memories. */
function asTransformerXl({ compressionRate, compressedLength, ...sizes }: Sizes): Sizes {
  const cacheLength = sizes.cacheLength + compressionRate - 1 + compressedLength;
  return { ...sizes, compressionRate, compressedLength, cacheLength };
}

export const compressiveTransformer: Architecture = {
  help: "a baseline: transformer-xl with a compressed memory, one place of compressedLength for every compressionRate tokens that leave its cache",
  generates: true,
  separateDecoder: false,
  /**
   * As many tokens are compressed as a segment has; their loss projects them and what stands for them, and reads both.
   */
  work(sizes) {
    const { width: D, segmentLength: T, compressionRate: c, decoderLayers } = sizes,
      { path, whole } = transformerXl.work(asTransformerXl(sizes));
    const compression = decoderLayers * T * D * D;
    const loss = decoderLayers * (2 * T * D * D + 2 * (T + T / c) * D * D + 2 * T * (T + T / c) * D);
    return { path: path + compression, whole: whole + compression + loss };
  },
  activationBytes(sizes, batch, length) {
    const { width, heads, compressionRate: c, decoderLayers, precision } = sizes,
      bytes = precision === "float64" ? 8 : 4;
    const loss = length * (width * (2 + 5 / c) + (2 * heads * length) / c);
    return transformerXl.activationBytes(asTransformerXl(sizes), batch, length) + batch * decoderLayers * loss * bytes;
  },
  scoringBytes: (sizes, batch, length) => transformerXl.scoringBytes(asTransformerXl(sizes), batch, length),
};
