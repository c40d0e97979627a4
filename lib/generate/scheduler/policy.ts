/**
 * Who is served next. A scheduler asks its policy at each step and does what it says; a policy knows turns by what it
 * needs of them and touches nothing.
 */

/** A turn as a policy sees it. */
export interface TurnView {
  /** Turns of one key share what one would get: a user, say. Each session is its own by default. */
  readonly key: unknown;
  /** Turns in the order they came. */
  readonly arrival: number;
  /** Whether it holds a slot of the decoder, in the middle of a segment: to leave it then costs a prefill. */
  readonly inSegment: boolean;
}

/** Decides over a scheduler's turns; see {@link fairPolicy}. */
export interface SchedulerPolicy {
  /** The order in which waiting turns are let in. */
  admit<View extends TurnView>(waiting: readonly View[]): readonly View[];
  /**
   * Those that read in this step. One that is named several times may read as many segments, where the model takes
   * several at once (8 on a GPU); else it reads one. `decoding`: whether others wait for a token in it.
   */
  read<View extends TurnView>(reading: readonly View[], decoding: boolean): readonly View[];
  /** At most `slots` that draw in this step. */
  decode<View extends TurnView>(ready: readonly View[], slots: number): readonly View[];
  /**
   * How many tokens those that draw may draw in one call of the engine, before anyone looks at them. `others`: those
   * that could be let in, read or draw meanwhile. Default: 1.
   */
  run?<View extends TurnView>(decoding: readonly View[], others: readonly View[]): number;
  /** A turn has been served. */
  charge(view: TurnView, tokens: number, kind: "read" | "generated"): void;
  /** A turn is over; `others`: those that are not. */
  leave(view: TurnView, others: readonly TurnView[]): void;
}

/** Settings of {@link fairPolicy}. */
export interface FairPolicyOptions {
  /** Segments that are read in a step which also decodes: how long one may take. Default 1. */
  readonly readsBesideDecoding?: number | undefined;
  /** Segments that are read in a step in which nothing decodes. Default 8. */
  readonly readsAlone?: number | undefined;
  /** What reading a token costs against generating one. Default 1/8. */
  readonly readCost?: number | undefined;
  /** Tokens of a run where others wait to be let in, to read or to draw: what they wait at most. Default 1. */
  readonly runBesideWaiting?: number | undefined;
  /** Tokens of a run where nobody waits. Default 4. */
  readonly runAlone?: number | undefined;
}

/** Times that a turn is named among those that read, however many a policy lets read. */
const MOST_OF_A_TURN = 64;

/**
 * Start-time fair queueing: the key that was served least comes first, a new one starts where the least served one
 * stands. A turn in the middle of a segment keeps its slot to the segment's end, which is at most T tokens away; then
 * it may go to one that waits. Each step reads and decodes, so that neither waits for the other. Tokens are drawn in
 * runs while nobody waits.
 */
export function fairPolicy({
  readsBesideDecoding = 1,
  readsAlone = 8,
  readCost = 1 / 8,
  runBesideWaiting = 1,
  runAlone = 4,
}: FairPolicyOptions = {}): SchedulerPolicy {
  const served = new Map<unknown, number>();
  let floor = 0; // what a new key starts with
  const serviceOf = (view: TurnView): number => {
    const service = served.get(view.key) ?? floor;
    served.set(view.key, service);
    return service;
  };
  const inTurn = <View extends TurnView>(views: readonly View[]): View[] =>
    views
      .map((view) => ({ view, service: serviceOf(view) }))
      .sort((a, b) => a.service - b.service || a.view.arrival - b.view.arrival)
      .map(({ view }) => view);
  return {
    admit: inTurn,
    read(reading, decoding) {
      const order = inTurn(reading);
      if (order.length === 0) return [];
      const segments = Math.min(decoding ? readsBesideDecoding : readsAlone, MOST_OF_A_TURN * order.length);
      return Array.from({ length: segments }, (_, i) => order[i % order.length]!);
    },
    decode(ready, slots) {
      const kept = ready.filter(({ inSegment }) => inSegment).slice(0, slots),
        others = ready.filter((view) => !kept.includes(view));
      return [...kept, ...inTurn(others).slice(0, slots - kept.length)];
    },
    run: (_, others) => (others.length > 0 ? runBesideWaiting : runAlone),
    charge(view, tokens, kind) {
      served.set(view.key, serviceOf(view) + tokens * (kind === "read" ? readCost : 1));
      floor = Math.min(...served.values());
    },
    leave({ key }, others) {
      if (!others.some((other) => other.key === key)) served.delete(key);
      floor = served.size === 0 ? floor : Math.min(...served.values());
    },
  };
}
