/** One run: a model trained on its tokens, then scored on what was held out. */
import { isMemformerError, Memformer, TokenStream, type TokenSource } from "../../index.ts";
import { quartiles } from "../../diagnose/statistics.ts";
import type { Place } from "../jobs.ts";
import { trained, type TrainingContext } from "../training.ts";
import { keyOf, type Run } from "./plan.ts";
import { score, type Scores } from "./score.ts";

/** What a run gave: a line of the file of rows. */
export interface Row {
  readonly key: string;
  readonly run: Run;
  /** Trained on, which may be a step more than asked for. */
  readonly trained: number;
  readonly steps: number;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  /** Mean training loss of each tenth of the steps, nats. */
  readonly curve: readonly number[];
  /** Gradient norms: lower quartile, median, upper quartile, greatest. */
  readonly norms: readonly number[];
  /** Why there is no score: the loss was no number, say. */
  readonly error?: string;
  readonly scores?: Scores;
  /** UTF-8 bytes of what was scored; 0: not known, for documents were scored in part. */
  readonly bytes: number;
}

export async function trainAndScore(
  run: Run,
  train: TokenSource,
  valid: TokenSource,
  { device, threads }: Place,
  context: TrainingContext = { checkpoints: undefined, signal: undefined, note: () => undefined },
): Promise<Row> {
  const { vocabulary, bos } = train.tokenizer;
  await using model = await Memformer.create({
    ...run.model,
    vocabulary,
    bos,
    seed: run.seed,
    device,
    ...(threads > 0 && { threads }),
    ...(run.precision !== "" && { precision: run.precision as "bfloat16" }),
  });
  const { segmentLength } = model.config,
    horizon = run.train.horizon ?? 8;
  const steps = Math.max(10, Math.round(run.tokens / (run.lanes * segmentLength * horizon)));
  const options = {
    warmup: Math.min(200, Math.ceil(steps / 10)),
    ...run.train,
    steps,
    learningRate: run.rate,
    seed: run.seed,
  };
  const stream = new TokenStream(train, {
    lanes: run.lanes,
    segmentLength,
    seed: run.seed,
    ...(run.cut > 0 && { documentLimit: run.cut }),
  });
  const losses: number[] = [],
    norms: number[] = [],
    began = performance.now();
  let tokens = 0,
    error: string | undefined;
  try {
    const made = await trained(model, stream, options, context, ({ loss, gradientNorm, tokens: so }) => {
      losses.push(loss);
      norms.push(gradientNorm);
      tokens = so;
    });
    tokens = made.tokens;
  } catch (failure) {
    if (!isMemformerError(failure) || failure.code !== "ERR_MEMFORMER_NAN_LOSS") throw failure;
    error = failure.message;
  }
  const seconds = (performance.now() - began) / 1000;
  const facts = {
    key: keyOf(run),
    run,
    trained: tokens,
    steps,
    seconds,
    tokensPerSecond: tokens / seconds,
    curve: tenths(losses),
    norms: [...quartiles(norms), Math.max(...norms)],
    bytes: run.depth === 0 ? valid.bytes : 0,
  };
  return error === undefined ? { ...facts, scores: await score(model, valid, run.depth) } : { ...facts, error };
}

function tenths(losses: readonly number[]): number[] {
  const at = (i: number): number => Math.floor((i * losses.length) / 10);
  return Array.from({ length: 10 }, (_, i) => losses.slice(at(i), Math.max(at(i) + 1, at(i + 1)))).map(
    (part) => part.reduce((sum, loss) => sum + loss, 0) / Math.max(1, part.length),
  );
}
