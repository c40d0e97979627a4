/**
 * Nats of held-out text by position in its documents, with the memory whole, with another row's, and with the learned
 * start in its place. Every document has a lane of its own, so that all rows of a segment lie equally deep.
 */
import {
  applyOperator,
  disposeSegment,
  evaluationPass,
  PADDING,
  type Memformer,
  type Segment,
  type State,
  tidy,
  type Tensor,
  type TokenSource,
} from "../../index.ts";

/** Where a token stands in its document: among the first 1,024, the next 3,072, or beyond. */
export const depths = ["first", "middle", "beyond"] as const;
const ends = [1024, 4096, Infinity];
export const memories = ["whole", "shuffled", "initial"] as const;

export type Depth = (typeof depths)[number];
export type MemoryKind = (typeof memories)[number];

export interface Sum {
  readonly tokens: number;
  readonly nats: number;
}

/** Of each memory, of each depth. */
export type Scores = Readonly<Record<MemoryKind, Readonly<Record<Depth, Sum>>>>;

/** Fewer documents than this are cut, so that rows have neighbours. */
const FEW = 16;

/** Of every document the first `depth` tokens, in whole segments; 0: all. */
export async function score(model: Memformer, source: TokenSource, depth = 0): Promise<Scores> {
  const { segmentLength: length, bos } = model.config,
    lanes = Math.max(FEW, source.documents);
  const limit = Math.ceil(source.tokens / lanes / length) * length;
  const stream = evaluationPass(source, {
    lanes,
    segmentLength: length,
    bos,
    ...(source.documents < FEW && { documentLimit: limit }),
  });
  const sums = Object.fromEntries(
    memories.map((name) => [name, Object.fromEntries(depths.map((depth) => [depth, { tokens: 0, nats: 0 }]))]),
  ) as Record<MemoryKind, Record<Depth, { tokens: number; nats: number }>>;
  let state = model.initialState(lanes);
  for (let t = 0; depth === 0 || t * length < depth; t++) {
    const given = await stream.next();
    if (given === undefined) break;
    const targets = given.target.reduce((count, token) => count + (token === PADDING ? 0 : 1), 0);
    const place = depths[ends.findIndex((end) => t * length < end)]!;
    const made = tidy(() => scored(model, given, state));
    for (const tensor of state) tensor.dispose();
    state = made.state;
    const losses = await made.losses.data();
    made.losses.dispose();
    memories.forEach((name, i) => {
      const sum = sums[name][place];
      sum.tokens += targets;
      sum.nats += Number(losses[i]) * targets;
    });
  }
  for (const tensor of state) tensor.dispose();
  return sums;
}

function scored(model: Memformer, given: Segment, state: State): { losses: Tensor; state: State } {
  const segment = model.upload(given);
  const whole = model.forward(segment, state);
  const shuffled = model.forward(
    segment,
    state.map((tensor) => applyOperator("aten::roll", tensor, [1], [0])),
  );
  const initial = model.forward({ ...segment, reset: applyOperator("aten::ones_like", segment.reset) }, state);
  disposeSegment(segment);
  return { losses: applyOperator("aten::stack", [whole.loss, shuffled.loss, initial.loss]), state: whole.state };
}
