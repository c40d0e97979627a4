/** Nats by position in a document, in bins that double. */
import { evaluationPass, type TokenSource } from "../../data/index.ts";
import type { Segment } from "../../data/segment.ts";
import { MemformerError } from "../../errors.ts";
import { tidy } from "../../engine/tensor.ts";
import type { Memformer } from "../../model/memformer.ts";
import type { ScoringState } from "../../model/scoring.ts";
import { disposeSegment } from "../../model/segment-tensors.ts";

/** Tokens before position `end` and at or behind the bin before. */
export interface Bin {
  readonly end: number;
  readonly tokens: number;
  /** Of all its tokens: with the state, and with the learned start in its place. */
  readonly nats: number;
  readonly initialNats: number;
}

/**
 * Bins that end at the first segment, twice that, and so on, of a source whose documents are of one length and a lane
 * each. Rejects with the signal's reason.
 */
export async function scoreByPosition(
  model: Memformer,
  source: TokenSource,
  signal: AbortSignal | undefined,
  note: (text: string) => void,
): Promise<Bin[]> {
  const { segmentLength, bos } = model.config,
    lanes = source.documents;
  const stream = evaluationPass(source, { lanes, segmentLength, bos }),
    group = model.scoringSegmentsPerStep(lanes, segmentLength);
  const bins: Bin[] = [];
  let state: ScoringState = { memory: model.initialState(lanes), held: [] },
    position = 0;
  try {
    for (let over = false; !over;) {
      signal?.throwIfAborted();
      const segments: Segment[] = [];
      while (segments.length < group && !over) {
        const segment = await stream.next();
        if (segment === undefined) over = true;
        else segments.push(segment);
      }
      if (segments.length === 0) break;
      const scored = tidy(() => {
        const given = segments.map((segment) => model.upload(segment)),
          made = model.score(given, state, ["initial"]);
        for (const segment of given) disposeSegment(segment);
        return made;
      });
      for (const tensor of state.memory) tensor.dispose();
      state = scored.state;
      const [losses, counts] = await Promise.all([scored.losses.data(), scored.counts.data()]);
      scored.losses.dispose();
      scored.counts.dispose();
      for (let g = 0; g < segments.length; g++) {
        const count = Number(counts[g]);
        if (!Number.isFinite(Number(losses[g])))
          throw new MemformerError("NAN_LOSS", `the loss at token ${position} of a document is ${String(losses[g])}`);
        add(bins, (position += segmentLength), segmentLength, {
          tokens: count,
          nats: Number(losses[g]) * count,
          initialNats: Number(losses[segments.length + g]) * count,
        });
      }
      if (position % (segmentLength * 2 ** 12) < segmentLength * segments.length)
        note(`scored ${position} tokens of each lane`);
    }
    return bins;
  } finally {
    for (const tensor of state.memory) tensor.dispose();
  }
}

function add(bins: Bin[], position: number, first: number, sum: Omit<Bin, "end">): void {
  const end = first * 2 ** Math.ceil(Math.log2(position / first)),
    last = bins.at(-1);
  if (last?.end !== end) bins.push({ end, ...sum });
  else {
    bins[bins.length - 1] = {
      end,
      tokens: last.tokens + sum.tokens,
      nats: last.nats + sum.nats,
      initialNats: last.initialNats + sum.initialNats,
    };
  }
}
