/** One pass over text to be evaluated, and how many bytes of it are scored: the two halves of bits per byte. */
import { documentRange, evaluationPass, type TokenSource, type TokenStream } from "../data/index.ts";
import { evaluate, type EvaluateOptions, type Evaluation } from "./evaluate.ts";
import type { ModelConfig } from "../model/config.ts";
import type { EvaluatedModel } from "../model/recurrence.ts";

export interface PassOptions extends Pick<EvaluateOptions, "ablations" | "signal" | "group"> {
  readonly lanes: number;
  /** How many segments each lane reads. Default: to the end. */
  readonly segments?: number | undefined;
  /** Tokens after which a document is cut and the memory starts afresh. Default: every document is whole. */
  readonly documentLimit?: number | undefined;
}

/** The documents, tokens and bytes that a pass over a source scores. */
export interface Scored {
  /** Documents of which at least one token is scored. */
  readonly documents: number;
  /** Places inside documents where the memory starts afresh, by `documentLimit`. */
  readonly cuts: number;
  /**
   * UTF-8 bytes of the original text that is scored, whatever the tokenizer makes of it. Of a document that is scored
   * in part, the share of its bytes that its scored tokens are of all its tokens.
   */
  readonly bytes: number;
}

/**
 * Evaluates `model` on `source`, document by document: how many lanes there are changes how long it takes and, but for
 * rounding, nothing else. The longest documents come first, so that no lane is left alone at the end; of a pass that
 * `segments` cuts short, those that the source names first. Lanes beyond the number of documents would idle and are not
 * opened.
 */
export async function evaluateSource(
  model: EvaluatedModel & { readonly config: Pick<ModelConfig, "segmentLength" | "bos"> },
  source: TokenSource,
  { lanes, segments = Infinity, documentLimit = Infinity, ...rest }: PassOptions,
): Promise<Evaluation & Scored> {
  let pieces = 0;
  for (let i = 0; i < source.documents; i++) pieces += Math.ceil(source.documentLength(i) / documentLimit) || 1;
  const { segmentLength, bos } = model.config;
  const options = {
    lanes: Math.min(lanes, pieces),
    segmentLength,
    bos,
    ...(documentLimit !== Infinity && { documentLimit }),
    longestFirst: segments === Infinity,
  };
  const scored = await scoredPart(source, (text) => evaluationPass(text, options), segments);
  const asked = { ...rest, bytes: scored.bytes, ...(segments !== Infinity && { segments }) };
  return { ...(await evaluate(model, evaluationPass(source, options), asked)), ...scored };
}

/** The same for the first `segments` segments of a pass, computed from the lengths of the documents alone. */
async function scoredPart(
  source: TokenSource,
  pass: (text: TokenSource) => TokenStream,
  segments: number,
): Promise<Scored> {
  const tokens = new Map<number, number>(); // scored, by document
  let cuts = 0;
  const dry = pass({
    ...documentRange(source, 0, source.documents),
    // What is read ends with the segment that is scored, and may begin before it.
    async read(document, from, to, into = new Int32Array(to - from)) {
      const { segmentLength, documentLimit } = dry,
        last = to - 1;
      const piece = documentLimit === Infinity ? 0 : last - (last % documentLimit);
      const begin = last - ((last - piece) % segmentLength);
      tokens.set(document, (tokens.get(document) ?? 0) + to - begin);
      if (begin > 0 && begin === piece) cuts++;
      return into.fill(0, 0, to - from);
    },
  });
  for (let read = 0; read < segments; read++) if ((await dry.next()) === undefined) break;
  let bytes = 0;
  for (const [document, count] of tokens) {
    bytes += (source.documentBytes(document) * count) / source.documentLength(document);
  }
  return { documents: tokens.size, cuts, bytes: Math.round(bytes) };
}
