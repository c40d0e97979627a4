/**
 * The rows of a pass over text that this process scores: all that are kept, or with several ranks its share of these.
 * Ranks divide the rows anew whenever some are dropped, so that none idles before the others.
 */
import type { Segment } from "../data/segment.ts";
import type { SegmentStream } from "../data/segment-stream.ts";
import type { Group } from "../distributed/group.ts";
import type { Meetings } from "../distributed/together.ts";
import { synchronize } from "../engine/runtime.ts";
import { applyOperator, tidy, type Tensor } from "../engine/tensor.ts";
import type { EvaluatedModel, State } from "../model/recurrence.ts";
import type { ScoringState } from "../model/scoring.ts";
import { LiveRows, rowsOfSegment } from "./live-rows.ts";

/** Ranks that score one text together, and where they meet on the way. */
export interface Ranks {
  readonly group: Group;
  readonly meetings: Meetings;
}

/** What is carried from segment to segment. */
export interface CarriedState extends ScoringState {
  /**
   * One row: the memory of the row before this rank's first, which "shuffled" reads there; empty where none is needed.
   */
  readonly neighbour: State;
}

/** The rows of a segment that this process scores, and the one whose memory the first of them reads when shuffled. */
export interface SharedSegment {
  readonly own: Segment;
  readonly neighbour: Segment | undefined;
}

/** A rank's places among the rows that are kept. */
interface Share {
  readonly first: number;
  readonly count: number;
}

export class SharedRows {
  readonly #rows: LiveRows;
  readonly #ranks: Ranks | undefined;
  readonly #needsNeighbour: boolean;
  #total: number;
  #share: Share;

  /** `shuffled`: whether rows read each other's memory, for which two at least are kept. */
  constructor(stream: SegmentStream, shuffled: boolean, ranks: Ranks | undefined) {
    this.#rows = new LiveRows(stream, shuffled ? 2 : 1);
    this.#ranks = ranks;
    this.#needsNeighbour = shuffled;
    this.#total = this.#rows.count;
    this.#share = this.#ownShare();
  }

  /** How many rows this process scores. */
  get count(): number {
    return this.#share.count;
  }

  /** Whether its scores count: where there are fewer rows than ranks, some score a row that is another's. */
  get counts(): boolean {
    return this.#owned() > 0;
  }

  /**
   * The place of the row before the first among those kept; undefined where that is a row of this process, or unread.
   */
  get neighbour(): number | undefined {
    const { first, count } = this.#share;
    return this.#needsNeighbour && count < this.#total ? (first + this.#total - 1) % this.#total : undefined;
  }

  /** Whether rows are to be dropped before the stream's next segment. */
  due(): boolean {
    return this.#rows.due();
  }

  /** The state to begin with. */
  start(model: EvaluatedModel): CarriedState {
    const neighbour = this.neighbour === undefined ? [] : model.initialState(1);
    return { memory: model.initialState(this.count), held: [], neighbour };
  }

  /** This process' rows of a segment, and its neighbour's. */
  of(segment: Segment): SharedSegment {
    const kept = this.#rows.of(segment),
      { first, count } = this.#share,
      { neighbour } = this;
    return {
      own: count === this.#total ? kept : rowsOfSegment(kept, placesFrom(first, count)),
      neighbour: neighbour === undefined ? undefined : rowsOfSegment(kept, [neighbour]),
    };
  }

  /** Drops rows if some are to be: returns the state of those that stay, and frees the other. */
  async drop(state: CarriedState): Promise<CarriedState> {
    const { first } = this.#share,
      owned = this.#owned(),
      total = this.#total,
      kept = this.#rows.drop();
    if (kept === undefined) return state;
    const whole =
      this.#ranks === undefined ? state : await gathered(this.#ranks, state, { first, count: owned }, total);
    this.#total = kept.length;
    this.#share = this.#ownShare();
    const places = placesFrom(this.#share.first, this.#share.count).map((place) => kept[place]!),
      { neighbour } = this;
    const next = tidy(() => ({
      memory: rowsOf(whole.memory, places),
      held: rowsOf(whole.held, places),
      neighbour: neighbour === undefined ? [] : rowsOf(whole.memory, [kept[neighbour]!]),
    }));
    disposeState(whole);
    return next;
  }

  #owned(): number {
    return this.#ranks === undefined ? this.#total : ownedBy(this.#ranks.group, this.#total).count;
  }

  #ownShare(): Share {
    if (this.#ranks === undefined) return { first: 0, count: this.#total };
    const { first, count } = ownedBy(this.#ranks.group, this.#total);
    return { first: Math.min(first, this.#total - 1), count: Math.max(1, count) };
  }
}

/** Frees a state. */
export function disposeState({ memory, held, neighbour }: CarriedState): void {
  for (const tensor of [...memory, ...held, ...neighbour]) tensor.dispose();
}

/** Rows divided evenly; with fewer rows than ranks some have none. */
function ownedBy({ rank, world }: Group, total: number): Share {
  const first = Math.floor((rank * total) / world);
  return { first, count: Math.floor(((rank + 1) * total) / world) - first };
}

function placesFrom(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

/** The state of all ranks' rows; the given one is freed. */
async function gathered(
  { group, meetings }: Ranks,
  state: CarriedState,
  { first, count }: Share,
  total: number,
): Promise<CarriedState> {
  await meetings.meet(null); // a rank that has failed does not come to what follows
  const all = (tensors: State): Tensor[] =>
    tensors.map((tensor) => group.gatherRows(applyOperator("aten::narrow", tensor, 0, 0, count), first, total));
  const whole = tidy(() => ({ memory: all(state.memory), held: all(state.held), neighbour: [] }));
  disposeState(state);
  await group.guard("dividing the rows anew", synchronize());
  return whole;
}

function rowsOf(tensors: State, rows: readonly number[]): Tensor[] {
  return tensors.map((tensor) =>
    applyOperator(
      "aten::cat",
      rows.map((row) => applyOperator("aten::narrow", tensor, 0, row, 1)),
      0,
    ),
  );
}
