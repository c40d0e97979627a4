/** One model of Table 2: trained in its budget, and scored on what was held out. */
import type { Dataset, TokenSource } from "../../data/index.ts";
import type { Memformer } from "../../model/memformer.ts";
import type { RunContext } from "../experiment.ts";
import { scoreHeldOut, type HeldOut } from "../held-out.ts";
import { languageModel, stepSeconds } from "../language-model.ts";
import { openText } from "../text.ts";
import { stepsIn } from "../wall-clock.ts";
import { wordsOfSource } from "../words.ts";
import type { WikiSettings } from "./plan.ts";

/** Of one split. */
export interface WikiScore extends HeldOut {
  /** exp(nats of all tokens / words), words as WikiText counts them, the ends of lines among them. */
  readonly wordPerplexity: number;
}

export interface WikiResult {
  readonly valid: WikiScore;
  /** Null where the text has no test split. */
  readonly test: WikiScore | null;
  readonly steps: number;
  readonly tokens: number;
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
  settings: WikiSettings,
  context: RunContext,
): Promise<WikiScore> {
  const { heldOut, all } = await scoreHeldOut(model, source, settings, context);
  // Of a part of the text, the words by its share of the bytes.
  const words = (await wordsOfSource(source, tokenizer)) * (all.bytes / source.bytes);
  return { ...heldOut, wordPerplexity: Math.exp(all.nats / words) };
}
