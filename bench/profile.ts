/**
 * Where the time on a GPU goes, by kernel:
 * `npm run bench -- profile [--of training | evaluation | decoding | reading] [--configuration wiki] [--variant plain | recipe] [--batch 16] [--segments-per-step 1] [--micro-batch 16] [--top 30]`,
 * of a training window, of one step of an evaluation with all ablations, of one step of decoding, or of a segment that
 * is read.
 */
import {
  ABLATIONS,
  AdamW,
  disposeSegment,
  Memformer,
  PADDING,
  synchronize,
  type Decoder,
  type ScoringState,
} from "../lib/index.ts";
import { optionsOf } from "../lib/experiments/worth/variants.ts";
import { trainedModels } from "./support/configurations.ts";
import { deviceEvents, occupancy } from "./support/kernels.ts";
import { choice, flag, report, wholeWord } from "./support/report.ts";
import { cutFlags, disposeWindow, enqueueWindow, randomSegments, resident, segmentsAStep } from "./support/window.ts";

export async function profiled(flags: readonly string[]): Promise<boolean> {
  const [name] = choice(flags, "configuration", Object.keys(trainedModels), ["wiki"]);
  const batch = flag(flags, "batch", 16),
    top = flag(flags, "top", 30),
    variant = wholeWord(flags, "variant", "plain"),
    { model: options, train } = optionsOf(variant),
    { horizon, model: shape } = trainedModels[name!]!;
  const [of = ""] = choice(flags, "of", ["training", "evaluation", "decoding", "reading"], ["training"]),
    evaluates = of === "evaluation";
  await using model = await Memformer.create({ ...shape, ...options, precision: "bfloat16", device: "cuda" });
  using optimizer = new AdamW(model, { muon: train.optimizer === "muon" });
  const window = resident(
    model,
    randomSegments(
      model,
      batch,
      of === "reading" ? 1 : evaluates ? model.scoringSegmentsPerStep(batch, model.config.segmentLength) : horizon,
      false,
    ),
  );
  let state = model.initialState(batch),
    held: ScoringState["held"] = [];
  const cut = cutFlags(flags);
  using decoder = of === "decoding" ? begun(model, batch) : undefined;
  const tokens = new Array<number>(batch).fill(1),
    slots = tokens.map((_, slot) => slot);
  const step = (): void => {
    if (decoder !== undefined) return decoder.step(tokens, slots).dispose();
    if (of === "reading") {
      const next = model.advance(window[0]!, state);
      for (const tensor of state) tensor.dispose();
      state = next;
      return;
    }
    if (evaluates) {
      const { losses, counts, state: next } = model.score(window, { memory: state, held }, ABLATIONS);
      for (const tensor of [...state, ...held, losses, counts]) tensor.dispose();
      ({ memory: state, held } = next);
      return;
    }
    const made = enqueueWindow(model, window, "mrbp", state, 0, optimizer, cut);
    state = made.state;
    for (const tensor of [...made.losses, made.norm]) tensor.dispose();
  };
  for (let i = 0; i < 4; i++) step();
  await synchronize();
  const events = await deviceEvents(step),
    { span, busy } = occupancy(events);
  const kernels = new Map<string, { count: number; us: number }>();
  for (const { name: kernel, duration } of events) {
    const { count, us } = kernels.get(kernel) ?? { count: 0, us: 0 };
    kernels.set(kernel, { count: count + 1, us: us + duration });
  }
  const sum = events.reduce((us, { duration }) => us + duration, 0);
  const rows = [...kernels]
    .sort((a, b) => b[1].us - a[1].us)
    .slice(0, top)
    .map(([kernel, { count, us }]) => ({
      "of the kernels' time": `${((100 * us) / sum).toFixed(1)} %`,
      "us a window": Math.round(us),
      count,
      "us each": (us / count).toFixed(1),
      kernel: kernel.length > 110 ? `${kernel.slice(0, 107)}...` : kernel,
    }));
  const { refusal } = await model.capturedGraphs();
  const plain = variant === "plain",
    what = { evaluation: "evaluation step", decoding: "decoding step", reading: "segment read" }[of] ?? "window";
  report(
    `profile-${of === "training" ? "" : `${of}-`}${name}-${batch}${plain ? "" : `-${variant.replaceAll(/[^a-z0-9]+/gi, "-")}`}`,
    `Kernels of one ${name} ${what} at batch ${batch}${plain ? "" : `, ${variant}`}`,
    rows,
    {
      "kernels' ms": (sum / 1000).toFixed(2),
      "window's ms": (span / 1000).toFixed(2),
      "GPU busy": `${((100 * busy) / span).toFixed(1)} %`,
      kernels: events.length,
      "segments a step": evaluates ? window.length : segmentsAStep(model, window, cut),
      "rows a step": Math.min(batch, cut.microBatch ?? batch),
      ...(refusal === "" ? {} : { "not recorded": refusal }),
    },
  );
  for (const tensor of [...state, ...held]) tensor.dispose();
  disposeWindow(window);
  return true;
}

/** A decoder with a segment begun in each of `batch` slots. */
function begun(model: Memformer, batch: number): Decoder {
  const decoder = model.decoder(batch),
    { segmentLength: T, bos } = model.config;
  const segment = model.upload({
    batch,
    length: T,
    source: new Int32Array(batch * T).fill(bos),
    target: new Int32Array(batch * T).fill(PADDING),
    reset: new Uint8Array(batch).fill(1),
  });
  const state = model.initialState(batch);
  decoder
    .begin(
      segment,
      state,
      Array.from({ length: batch }, (_, slot) => slot),
    )
    .dispose();
  disposeSegment(segment);
  for (const tensor of state) tensor.dispose();
  return decoder;
}
