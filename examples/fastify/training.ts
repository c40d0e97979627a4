/**
 * Training beside the service, in the same process: one run at a time, on a model of its own, saved as a folder when it
 * ends.
 */
import { Memformer, Trainer, type SegmentStream, type TrainOptions } from "../../lib/index.ts";
import { Refusal } from "./conversations.ts";

export interface Progress {
  readonly running: boolean;
  readonly step: number;
  readonly steps: number;
  readonly loss: number | null;
  readonly tokensPerSecond: number | null;
  /** Where the trained model lies. */
  readonly saved: string | null;
  /** Why the last run failed. */
  readonly failure: string | null;
}

const never: Progress = {
  running: false,
  step: 0,
  steps: 0,
  loss: null,
  tokensPerSecond: null,
  saved: null,
  failure: null,
};

export class Training {
  readonly #from: string;
  readonly #to: string;
  readonly #stream: () => SegmentStream;
  #trainer: Trainer | undefined;
  #run: Promise<void> = Promise.resolve();
  #progress = never;
  #stopping = false;

  /** Trains what the folder `from` holds on `stream`, and saves it to `to`. */
  constructor(from: string, to: string, stream: () => SegmentStream) {
    [this.#from, this.#to, this.#stream] = [from, to, stream];
  }

  get progress(): Progress {
    return this.#progress;
  }

  start(options: TrainOptions & { readonly steps: number }): void {
    if (this.#progress.running) throw new Refusal(409, "a training run is under way");
    this.#stopping = false;
    this.#progress = { ...never, running: true, steps: options.steps };
    this.#run = this.#train(options)
      .catch((error: unknown) => {
        this.#progress = { ...this.#progress, failure: String(error) };
      })
      .finally(() => {
        this.#progress = { ...this.#progress, running: false };
      });
  }

  /** Resolves when the step under way is finished and the model is saved. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#trainer?.stop();
    await this.#run;
  }

  async #train(options: TrainOptions): Promise<void> {
    await using model = await Memformer.load(this.#from);
    using trainer = new Trainer(model, options);
    this.#trainer = trainer;
    try {
      for await (const { step, loss, tokensPerSecond } of trainer.run(this.#stream())) {
        this.#progress = { ...this.#progress, step, loss, tokensPerSecond };
        if (this.#stopping) break;
      }
      await model.save(this.#to);
      this.#progress = { ...this.#progress, saved: this.#to };
    } finally {
      this.#trainer = undefined;
    }
  }
}
