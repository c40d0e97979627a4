/** A model trained on an experiment's text, as several experiments need one. */
import { TokenStream, type Dataset } from "../data/index.ts";
import type { ModelOptions } from "../model/config.ts";
import { Memformer } from "../model/memformer.ts";
import type { TrainOptions } from "../train/config.ts";
import type { Json, RunContext } from "./experiment.ts";
import { trained, type Trained } from "./training.ts";

/** All that decides the weights. */
export interface LanguageSettings {
  /** See `textName`. */
  readonly text: string;
  readonly model: { readonly [option in keyof ModelOptions]?: Json };
  readonly lanes: number;
  readonly horizon: number;
  readonly steps: number;
  readonly rate: number;
  /** Tokens after which a document is cut in training, so that memories start anew. */
  readonly cut: number;
  readonly seed: number;
}

/** The trained model, which the caller disposes of. */
export async function languageModel(
  { model: options, lanes, horizon, steps, rate, cut, seed }: LanguageSettings,
  text: Dataset,
  context: RunContext,
): Promise<{ readonly model: Memformer; readonly trained: Trained }> {
  const { vocabulary, bos } = text.tokenizer;
  const model = await Memformer.create({
    ...(options as ModelOptions),
    vocabulary,
    bos,
    seed,
    device: context.device,
  });
  try {
    const stream = new TokenStream(text.train, {
      lanes,
      segmentLength: model.config.segmentLength,
      documentLimit: cut,
      seed,
    });
    const train: TrainOptions & { steps: number } = {
      steps,
      horizon,
      learningRate: rate,
      warmup: Math.min(100, Math.ceil(steps / 10)),
      seed,
    };
    return { model, trained: await trained(model, stream, train, context) };
  } catch (error) {
    await model.dispose();
    throw error;
  }
}
