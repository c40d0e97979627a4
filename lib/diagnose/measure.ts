/** Measures of a model over held-out text from which one can tell why its memory is used, or is not. */
import { evaluationPass, type TokenSource } from "../data/index.ts";
import { MemformerError } from "../errors.ts";
import { architectures } from "../model/architectures/index.ts";
import type { Memformer, Observed } from "../model/memformer.ts";
import { mrbp } from "../gradients/mrbp.ts";
import type { State } from "../model/recurrence.ts";
import { disposeSegment, type SegmentTensors } from "../model/segment-tensors.ts";
import { PADDING, type Segment } from "../data/segment.ts";
import { applyOperator, tidy, type Tensor } from "../engine/tensor.ts";
import { halfLife, median, norms, shares, slotClasses, slotMeans, type SlotClasses } from "./statistics.ts";

/** Measures of one layer at the last segment. */
export interface LayerMeasure {
  readonly name: string;
  /** Share of the stream's mean square that differs from token to token. */
  readonly tokenShare: number;
  /** The largest logits of its attentions. */
  readonly logits: Readonly<Record<string, number>>;
}

/** The memory after a segment. */
export interface MemoryMeasure extends SlotClasses {
  readonly segment: number;
  /** Shares of the slots' mean square that differ from slot to slot, and from text to text. */
  readonly slotShare: number;
  readonly textShare: number;
}

/** What a slot does at the last segment. */
export interface SlotMeasure {
  /** Its weight on itself: the mean over texts and heads. */
  readonly selfWeight: number;
  /** Its ||v||; 0 without bmn. */
  readonly biasNorm: number;
}

/** Gradients of the loss of a segment, that many segments after the memory it comes back to. Norms. */
export interface LagMeasure {
  readonly lag: number;
  readonly memory: number;
  readonly readers: number;
  readonly writer: number;
  readonly bias: number;
}

/** Nats a token, and what they rise by when something is taken away. NaN: does not apply. */
export interface Costs {
  readonly whole: number;
  /** Another text's memory. */
  readonly shuffled: number;
  /** The learned start in the memory's place: the encoder without its memory. */
  readonly initial: number;
  /** The source of another text, and none at all: the decoder without its encoder. */
  readonly otherSource: number;
  readonly noSource: number;
}

/** All measures of {@link diagnose}. */
export interface Diagnosis {
  readonly tokens: number;
  readonly costs: Costs;
  readonly layers: readonly LayerMeasure[];
  /**
   * Share of the written hidden states' mean square that differs from token to token, and the same of the writer's
   * values.
   */
  readonly hiddenTokenShare: number;
  readonly valueTokenShare: number;
  /** Medians of a value's norm and of a slot's. */
  readonly valueNorm: number;
  readonly slotNorm: number;
  readonly writerLogit: number;
  /**
   * Median weight of a slot on itself, median ||v|| (0 without bmn), and the median half-life of what slots hold, in
   * segments.
   */
  readonly selfWeight: number;
  readonly biasNorm: number;
  readonly halfLife: number;
  readonly memory: readonly MemoryMeasure[];
  /** One per slot. */
  readonly slots: readonly SlotMeasure[];
  readonly lags: readonly LagMeasure[];
}

/** How much text is read. */
export interface DiagnoseOptions {
  /** Texts side by side, at least 2. Default 8. */
  readonly lanes?: number;
  /** Segments to read of each. Default 32. */
  readonly segments?: number;
}

/**
 * Reads the beginnings of `source`'s documents. Rejects with MemformerError DATA when there is nothing to score, CONFIG
 * for fewer than 2 lanes and for an architecture without a memory writer. The model's gradients are dropped.
 */
export async function measure(
  model: Memformer,
  source: TokenSource,
  { lanes = 8, segments = 32 }: DiagnoseOptions = {},
): Promise<Diagnosis> {
  if (!Number.isInteger(lanes) || lanes < 2)
    throw new MemformerError("CONFIG", `lanes must be a whole number of at least 2, got ${lanes}`);
  const { architecture } = model.config;
  if (architectures[architecture].writesFrom === undefined) {
    throw new MemformerError(
      "CONFIG",
      `architecture "${architecture}" has no memory writer to diagnose; \`evaluate\` tells what its state is worth`,
      { details: { architecture } },
    );
  }
  const read = await firstSegments(model, source, lanes, segments);
  let state = model.initialState(lanes);
  const kinds = ["whole", "shuffled", "initial", "otherSource", "noSource"] as const,
    nats = new Float64Array(kinds.length),
    memory: MemoryMeasure[] = [];
  let tokens = 0,
    seen = new Map<string, Observed>(),
    last: State = [];
  for (const [t, segment] of read.entries()) {
    const uploaded = model.upload(segment),
      before = state;
    seen = await model.observe(uploaded, state);
    const made = tidy(() => costs(model, segment, uploaded, before));
    const count = segment.target.reduce((sum, token) => sum + (token === PADDING ? 0 : 1), 0),
      losses = await made.losses.data();
    losses.forEach((loss, i) => {
      nats[i]! += Number(loss) * count;
    });
    tokens += count;
    state = made.state;
    memory.push(await memoryMeasure(t, state[0]!, seen));
    for (const tensor of [made.losses, ...last]) tensor.dispose();
    last = before;
    disposeSegment(uploaded);
  }
  for (const tensor of [...state, ...last]) tensor.dispose();
  if (tokens === 0) throw new MemformerError("DATA", "there is nothing to score: the text has no token to predict");
  const mean = (i: number): number => nats[i]! / tokens,
    { separateDecoder } = architectures[model.config.architecture];
  const over = (i: number): number => mean(i) - mean(0),
    bias = await biasNorms(model),
    self = slotMeans(part(seen, "writer.self"));
  const lastSegment = read.at(-1)!,
    { tokenShare } = tokenShares(model, lastSegment);
  return {
    tokens,
    costs: {
      whole: mean(0),
      shuffled: over(1),
      initial: over(2),
      otherSource: separateDecoder ? over(3) : NaN,
      noSource: separateDecoder ? over(4) : NaN,
    },
    layers: layersOf(seen, tokenShare),
    hiddenTokenShare: tokenShare(part(seen, "hidden")),
    valueTokenShare: tokenShare(part(seen, "writer.values")),
    valueNorm: median(norms(part(seen, "writer.values"))),
    slotNorm: 1,
    writerLogit: Math.max(...part(seen, "writer.logits").data),
    selfWeight: median(self),
    biasNorm: median(bias),
    memory,
    slots: slotMeasures(self, bias, model.config.memorySlots),
    halfLife: median(self.map((weight, i) => halfLife(weight, bias[i % bias.length]!))),
    lags: await gradientsByLag(model, read),
  };
}

/** `self` (B M): weights of slots on themselves; `bias` (M), or one number for all. */
function slotMeasures(self: readonly number[], bias: readonly number[], slots: number): SlotMeasure[] {
  return Array.from({ length: slots }, (_, slot) => {
    const own = self.filter((_, i) => i % slots === slot);
    return {
      selfWeight: own.reduce((sum, weight) => sum + weight, 0) / own.length,
      biasNorm: bias[slot % bias.length]!,
    };
  });
}

async function firstSegments(
  model: Memformer,
  source: TokenSource,
  lanes: number,
  segments: number,
): Promise<Segment[]> {
  const { segmentLength, bos } = model.config,
    share = Math.max(segmentLength, Math.floor(source.tokens / lanes / segmentLength) * segmentLength);
  const stream = evaluationPass(source, {
      lanes,
      segmentLength,
      bos,
      ...(source.documents < lanes && { documentLimit: share }),
    }),
    read: Segment[] = [];
  while (read.length < segments) {
    const next = await stream.next();
    if (next === undefined) break;
    read.push(next);
  }
  return read;
}

/** Losses of a segment: whole, and with something taken away. */
function costs(
  model: Memformer,
  segment: Segment,
  uploaded: SegmentTensors,
  state: State,
): { losses: Tensor; state: State } {
  const whole = model.forward(uploaded, state),
    { batch, length } = segment;
  const rolled = (tensor: Tensor): Tensor => applyOperator("aten::roll", tensor, [1], [0]);
  const none = model.upload({
    ...segment,
    source: new Int32Array(batch * length)
      .fill(PADDING)
      .map((token, i) => (i % length === 0 ? model.config.bos : token)),
  });
  const losses = [
    whole.loss,
    model.forward(uploaded, state.map(rolled)).loss,
    model.forward({ ...uploaded, reset: applyOperator("aten::ones_like", uploaded.reset) }, state).loss,
    model.forward({ ...uploaded, source: rolled(uploaded.source) }, state).loss,
    model.forward(none, state).loss,
  ];
  return { losses: applyOperator("aten::stack", losses), state: whole.state };
}

async function memoryMeasure(
  segment: number,
  memory: Tensor,
  seen: ReadonlyMap<string, Observed>,
): Promise<MemoryMeasure> {
  const { shape } = await memory.read(),
    data = (await memory.data()) as Float32Array,
    { alongN, alongB } = shares({ shape, data });
  return { segment, slotShare: alongN, textShare: alongB, ...slotClasses(part(seen, "writer.self")) };
}

function part(seen: ReadonlyMap<string, Observed>, name: string): Observed {
  const found = seen.get(name);
  if (found === undefined) throw new MemformerError("CONFIG", `this model shows no "${name}"`);
  return found;
}

/** Of the tokens that the memory is written from. */
function tokenShares(
  model: Memformer,
  { source, target, length }: Segment,
): { tokenShare: (cube: Observed) => number } {
  const tokens = architectures[model.config.architecture].writesFrom === "target" ? target : source;
  return {
    tokenShare: (cube) => shares(cube, (b, n) => cube.shape[1] !== length || tokens[b * length + n] !== PADDING).alongN,
  };
}

function layersOf(seen: ReadonlyMap<string, Observed>, tokenShare: (cube: Observed) => number): LayerMeasure[] {
  return [...seen]
    .filter(([name]) => name.endsWith(".stream"))
    .map(([name, cube]) => {
      const layer = name.slice(0, -".stream".length);
      const logits = [...seen]
        .filter(([other]) => other.startsWith(`${layer}.`) && other.endsWith(".logits"))
        .map(([other, { data }]) => [other.slice(layer.length + 1, -".logits".length), Math.max(...data)]);
      return {
        name: layer,
        tokenShare: tokenShare(cube),
        logits: Object.fromEntries(logits) as Record<string, number>,
      };
    });
}

/** ||v|| of every slot; 0 where the memory forgets by nothing that is learned. */
async function biasNorms(model: Memformer): Promise<number[]> {
  const { forgetting, memorySlots, width, forgettingScaled, forgettingBias, forgettingBiasLeast } = model.config;
  if (forgetting !== "bmn") return [0];
  using v = model.parameter("writer.v_bias");
  const least = forgettingBiasLeast === 0 ? forgettingBias : forgettingBiasLeast;
  const scale = (slot: number): number =>
    forgettingScaled ? forgettingBias * (least / forgettingBias) ** (slot / Math.max(1, memorySlots - 1)) : 1;
  return norms({ shape: [memorySlots, width], data: (await v.data()) as Float32Array }).map(
    (norm, slot) => norm * scale(slot),
  );
}

/** Of the last segment's loss alone, over windows of 1, 2, 3, 5, 9, … segments. */
async function gradientsByLag(model: Memformer, read: readonly Segment[]): Promise<LagMeasure[]> {
  const lags = [0, 1, 2, 4, 8, 16].filter((lag) => lag < read.length - 1),
    found: LagMeasure[] = [];
  const groups = {
    readers: /memory_read\.(query|key_value|out)\.weight$/,
    writer: /^writer\.(query|key|value)\.weight$/,
    bias: /^writer\.(v_bias|initial)$/,
  };
  for (const lag of lags) {
    const window = read.slice(read.length - 1 - lag),
      before = read.slice(0, read.length - 1 - lag);
    model.zeroGradients();
    const reached = tidy(() => {
      const uploaded = (segments: readonly Segment[]): SegmentTensors[] =>
        segments.map((segment) => model.upload(segment));
      const state = uploaded(before).reduce<State>(
        (memory, segment) => model.advance(segment, memory),
        model.initialState(read[0]!.batch),
      );
      const weights = window.map((_, t) => (t === lag ? 1 : 0));
      return applyOperator(
        "aten::linalg_vector_norm",
        mrbp(model, uploaded(window), state, { weights, training: false }).gradient[0]!,
      );
    });
    const norm = async (pattern: RegExp): Promise<number> =>
      Math.hypot(
        ...(await Promise.all(
          model.parameters
            .filter(({ name }) => pattern.test(name))
            .map(async ({ name }) => {
              using gradient = tidy(() => applyOperator("aten::linalg_vector_norm", model.gradient(name)));
              return gradient.item();
            }),
        )),
      );
    found.push({
      lag,
      memory: await reached.item(),
      readers: await norm(groups.readers),
      writer: await norm(groups.writer),
      bias: await norm(groups.bias),
    });
    reached.dispose();
  }
  model.zeroGradients();
  return found;
}
