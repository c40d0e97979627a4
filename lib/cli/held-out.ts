/** One pass over text to be evaluated, and how many bytes of it are scored: the two halves of bits per byte. */
import { evaluationPass, type SegmentStream, type Tokenizer, type TokenSource } from "../data/index.ts";
import { evaluate, type EvaluateOptions, type Evaluation } from "../evaluate.ts";
import type { Memformer } from "../model.ts";
import { PADDING, type Segment } from "../segment.ts";

export interface PassOptions extends Pick<EvaluateOptions, "ablations" | "signal"> {
  readonly lanes: number;
  /** Default: to the end. */
  readonly segments?: number | undefined;
}

/** Evaluates `model` on `source`. Fewer documents than lanes are cut, so that no lane idles. */
export async function evaluateSource(
  model: Memformer,
  source: TokenSource,
  tokenizer: Tokenizer,
  options: PassOptions,
): Promise<Evaluation & { readonly bytes: number }> {
  const { lanes, segments, ...rest } = options;
  const { segment, bos } = model.config;
  const share = Math.ceil(source.tokens / lanes / segment) * segment;
  const pass = (): SegmentStream =>
    evaluationPass(source, {
      lanes,
      segment,
      bos,
      ...(source.documents < lanes && { documentLimit: share }),
    });
  const bytes = segments === undefined ? source.bytes : await scoredBytes(pass(), segments, source, tokenizer);
  return { ...(await evaluate(model, pass(), { ...rest, bytes, ...(segments !== undefined && { segments }) })), bytes };
}

/** UTF-8 bytes of the first segments' targets: of whole characters, if tokens can split them. */
async function scoredBytes(
  stream: SegmentStream,
  segments: number,
  source: TokenSource,
  tokenizer: Tokenizer,
): Promise<number> {
  const tokensAreBytes = source.tokens === source.bytes;
  const decoders = Array.from({ length: stream.lanes }, () => tokenizer.decoder());
  let bytes = 0;
  for (let read = 0; read < segments; read++) {
    const segment = await stream.next();
    if (segment === undefined) break;
    for (const [b, tokens] of rows(segment)) {
      if (segment.reset[b] === 1) decoders[b] = tokenizer.decoder();
      bytes += tokensAreBytes ? tokens.length : Buffer.byteLength(decoders[b]!.push(tokens));
    }
  }
  return bytes;
}

function rows({ batch, length, target }: Segment): [number, Int32Array][] {
  return Array.from({ length: batch }, (_, b) => [
    b,
    target.subarray(b * length, (b + 1) * length).filter((token) => token !== PADDING),
  ]);
}
