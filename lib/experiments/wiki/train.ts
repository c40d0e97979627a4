/** One model of Table 2: trained in its budget, and scored on what was held out. */
import type { Dataset, TokenSource } from "../../data/index.ts";
import { evaluateSource } from "../../evaluate/source.ts";
import type { Memformer } from "../../model/memformer.ts";
import type { RunContext } from "../experiment.ts";
import { segmentFlops } from "../flops.ts";
import { languageModel, stepSeconds } from "../language-model.ts";
import { openText } from "../text.ts";
import { stepsIn } from "../wall-clock.ts";
import { wordsOfSource } from "../words.ts";
import type { WikiSettings } from "./plan.ts";

/** Of one split. */
export interface WikiScore {
  readonly bitsPerByte: number;
  /** Nats of a token. */
  readonly nats: number;
  /** exp(nats of all tokens / words), words as WikiText counts them, the ends of lines among them. */
  readonly wordPerplexity: number;
  /** What another text's memory in place of its own costs, nats a token; null of a model that keeps none. */
  readonly shuffledCost: number | null;
}

export interface WikiResult {
  readonly valid: WikiScore;
  /** Null where the text has no test split. */
  readonly test: WikiScore | null;
  readonly steps: number;
  readonly tokens: number;
  /** Of all training, by the model's own formula. */
  readonly flops: number;
  /** Of training, at the median speed of its steps. */
  readonly seconds: number;
  readonly parameters: number;
  readonly stateBytes: number;
}

/** Rejects as {@link languageModel} does, and as opening the text does. */
export async function trainWiki(settings: WikiSettings, context: RunContext): Promise<WikiResult> {
  const text = await openText(context);
  try {
    const timed = { ...settings, steps: settings.steps ?? 1000 };
    const steps =
      settings.steps ??
      (await stepsIn(settings.seconds!, context.checkpoints, () => stepSeconds(timed, text, context)));
    const { model: made, trained } = await languageModel({ ...settings, steps }, text, context);
    await using model = made;
    const scoreOf = async (source: TokenSource): Promise<WikiScore> => score(model, source, text, settings, context);
    return {
      valid: await scoreOf(text.valid),
      test: text.test === undefined ? null : await scoreOf(text.test),
      steps,
      tokens: trained.tokens,
      flops: steps * settings.lanes * settings.horizon * segmentFlops(model.config).training,
      seconds: trained.tokens / trained.tokensPerSecond,
      parameters: model.parameterCount,
      stateBytes: model.config.memory ? model.stateBytes : 0,
    };
  } finally {
    await text.close();
  }
}

async function score(
  model: Memformer,
  source: TokenSource,
  { tokenizer }: Dataset,
  { lanes, scored }: WikiSettings,
  { signal }: RunContext,
): Promise<WikiScore> {
  const { nats, tokens, bytes, bitsPerByte, ablations } = await evaluateSource(model, source, {
    lanes,
    ...(scored > 0 && { segments: scored }),
    ablations: model.config.memory ? ["shuffled"] : [],
    signal,
  });
  // Of a part of the text, the words by its share of the bytes.
  const words = (await wordsOfSource(source, tokenizer)) * (bytes / source.bytes);
  const { shuffled } = ablations;
  return {
    bitsPerByte,
    nats: nats / tokens,
    wordPerplexity: Math.exp(nats / words),
    shuffledCost: shuffled === undefined ? null : (shuffled.nats - nats) / tokens,
  };
}
