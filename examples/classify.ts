/**
 * Labels documents: the encoder variant reads one segment by segment, and a head of your own names its class from the
 * hidden states of the last one. MRBP takes the gradient back through the memory.
 * `npx tsx examples/classify.ts [steps]`
 */
import { fileURLToPath } from "node:url";
import {
  applyOperator,
  ComposedModel,
  evaluate,
  Memformer,
  openDataset,
  openTokenizer,
  PADDING,
  Random,
  tokenLoss,
  Trainer,
  type CreateOptions,
  type Segment,
  type SegmentStream,
  type SegmentTensors,
  type State,
  type StatePart,
  type Step,
  type StepOptions,
} from "../lib/index.ts";

/** A label for each row from the hidden states of a Memformer encoder. */
export class Classifier extends ComposedModel {
  readonly encoder: Memformer;
  override readonly stateLayout: readonly StatePart[];

  static async create(classes: number, options: CreateOptions): Promise<Classifier> {
    const { width } = options;
    if (width === undefined) throw new TypeError("a classifier needs the encoder's width");
    const head = { name: "head.weight", shape: [width, classes], deviation: width ** -0.5, decay: true };
    return new Classifier(await Memformer.create({ ...options, architecture: "encoder" }, [head]));
  }

  constructor(encoder: Memformer) {
    super(encoder.share(), encoder.config);
    this.encoder = encoder;
    this.stateLayout = encoder.stateLayout;
  }

  override initialState(rows: number): State {
    return this.encoder.initialState(rows);
  }

  override advance(segment: SegmentTensors, state: State, options?: StepOptions): State {
    return this.encoder.advance(segment, state, options);
  }

  /** P(label) = softmax(mean of the hidden states W); a target's first place holds the label, or padding. */
  forward(segment: SegmentTensors, state: State, options?: StepOptions & { readonly graph?: boolean }): Step {
    const { hidden, state: next } = this.encoder.encode(segment, state, options);
    const logits = applyOperator(
      "aten::matmul",
      applyOperator("aten::mean.dim", hidden, [1], true),
      this.weight("head.weight"),
    );
    return { ...tokenLoss(logits, applyOperator("aten::narrow", segment.target, 1, 0, 1)), state: next };
  }
}

/** Endless documents of a fixed number of segments; the last one is labelled. */
export class LabelledDocuments implements SegmentStream<number> {
  readonly bos = 0;
  #step = 0;

  /** `document`: the tokens, and the label, of document `n`, the same each time. */
  constructor(
    readonly document: (n: number) => Promise<{ readonly tokens: Int32Array; readonly label: number }>,
    readonly lanes: number,
    readonly segmentLength: number,
    readonly segments: number,
    readonly vocabulary: number,
  ) {}

  async next(): Promise<Segment> {
    const { lanes: B, segmentLength: T, segments: S } = this;
    const t = this.#step % S,
      first = Math.floor(this.#step / S) * B;
    const source = new Int32Array(B * T).fill(PADDING),
      target = new Int32Array(B * T).fill(PADDING);
    for (let b = 0; b < B; b++) {
      const { tokens, label } = await this.document(first + b);
      source.set(tokens.subarray(t * T, (t + 1) * T), b * T);
      if (t === S - 1) target[b * T] = label;
    }
    this.#step += 1;
    return { batch: B, length: T, source, target, reset: new Uint8Array(B).fill(t === 0 ? 1 : 0) };
  }

  position(): number {
    return this.#step;
  }

  seek(position: number): void {
    this.#step = position;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const steps = Number(process.argv[2] ?? 200);
  const tokenizer = await openTokenizer("bytes");
  await using novel = await openDataset("moby-dick", { tokenizer });
  await using speeches = await openDataset("sotu", { tokenizer });
  // Passages of 4 segments of 32 bytes: which of the two are they from?
  const books = [novel.train, speeches.train] as const;
  const document = async (n: number) => {
    const random = new Random(1, n),
      label = random.below(2),
      book = books[label]!,
      chapter = random.below(book.documents);
    const length = Math.min(4 * 32, book.documentLength(chapter)),
      from = random.below(book.documentLength(chapter) - length + 1);
    return { label, tokens: await book.read(chapter, from, from + length) };
  };
  await using model = await Classifier.create(2, {
    width: 64,
    heads: 4,
    feedForward: 128,
    encoderLayers: 2,
    segmentLength: 32,
  });
  const stream = new LabelledDocuments(document, 16, 32, 4, 257);
  using trainer = new Trainer(model, { steps, horizon: 4, learningRate: 2e-3, warmup: 20 });
  for await (const { step, loss } of trainer.run(stream))
    if (step % 20 === 0) console.log(`step ${step}: ${loss.toFixed(3)} nats per label`);
  const { perplexity, ablations } = await evaluate(model, stream, { segments: 40 });
  console.log(
    `perplexity of the labels ${perplexity.toFixed(2)}, from the initial memory ${ablations.initial!.perplexity.toFixed(2)}`,
  );
}
