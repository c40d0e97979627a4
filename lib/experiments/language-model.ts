/** A model trained on an experiment's text, as several experiments need one. */
import { AUXILIARY_TOKENS } from "../data/auxiliary.ts";
import { TokenStream, type Dataset } from "../data/index.ts";
import type { ModelOptions } from "../model/config.ts";
import { Memformer } from "../model/memformer.ts";
import type { TrainOptions } from "../train/config.ts";
import { Trainer } from "../train/trainer.ts";
import type { Json, RunContext } from "./experiment.ts";
import { trained, type Trained } from "./training.ts";

/** All that decides the weights. */
export interface LanguageSettings {
  /** See `textName`. */
  readonly text: string;
  readonly model: { readonly [option in keyof ModelOptions]?: Json };
  readonly lanes: number;
  readonly horizon: number;
  /** Windows of a step; absent: one. */
  readonly accumulate?: number;
  readonly steps: number;
  readonly rate: number;
  /** Absent: the Trainer's default. */
  readonly weightDecay?: number;
  /** Tokens after which a document is cut in training, so that memories start anew. */
  readonly cut: number;
  /** Shares of the segments that have another task than to be continued; absent: none. */
  readonly tasks?: { readonly infilling: number; readonly recallPrevious: number };
  readonly seed: number;
}

/** The trained model, which the caller disposes of. */
export async function languageModel(
  settings: LanguageSettings,
  text: Dataset,
  context: RunContext,
): Promise<{ readonly model: Memformer; readonly trained: Trained }> {
  const { model, stream, train } = await begun(settings, text, context);
  try {
    return { model, trained: await trained(model, stream, train, context) };
  } catch (error) {
    await model.dispose();
    throw error;
  }
}

/** Trains a model that nobody keeps: the seconds of each of its steps. */
export async function* stepSeconds(
  settings: LanguageSettings,
  text: Dataset,
  context: RunContext,
): AsyncGenerator<number, void, void> {
  const { model: made, stream, train } = await begun(settings, text, context);
  await using model = made;
  using trainer = new Trainer(model, train);
  const run = trainer.run(stream);
  let began = performance.now();
  while ((await run.next()).done !== true) {
    yield (performance.now() - began) / 1000;
    began = performance.now();
  }
}

async function begun(
  { model: options, lanes, horizon, accumulate = 1, steps, rate, weightDecay, cut, tasks, seed }: LanguageSettings,
  text: Dataset,
  { device }: RunContext,
): Promise<{ model: Memformer; stream: TokenStream; train: TrainOptions & { steps: number } }> {
  const { bos } = text.tokenizer,
    vocabulary = text.tokenizer.vocabulary + (tasks === undefined ? 0 : AUXILIARY_TOKENS);
  const model = await Memformer.create({ ...(options as ModelOptions), vocabulary, bos, seed, device });
  try {
    const { segmentLength } = model.config,
      stream = new TokenStream(text.train, { lanes, segmentLength, documentLimit: cut, seed, ...tasks });
    const warmup = Math.min(100, Math.ceil(steps / 10));
    return {
      model,
      stream,
      train: {
        steps,
        horizon,
        accumulate,
        learningRate: rate,
        ...(weightDecay !== undefined && { weightDecay }),
        warmup,
        seed,
      },
    };
  } catch (error) {
    await model.dispose();
    throw error;
  }
}
