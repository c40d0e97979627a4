/** The segment that a session is in the middle of, decoded token by token. */
import type { Tensor } from "../engine/tensor.ts";
import type { State } from "../model/recurrence.ts";
import { disposeSegment, type SegmentTensors } from "../model/segment-tensors.ts";
import type { Decoder, RunSampling } from "./decoder.ts";
import type { SessionModel } from "./session-model.ts";

/**
 * Whether a session decodes token by token: where the model has a decoder.
 * A model whose `logits` are its own, put over its class's, is asked for those.
 */
export function decodes(model: SessionModel): model is SessionModel & Required<Pick<SessionModel, "decoder">> {
  return model.decoder !== undefined && holds(model, "decoder", "logits");
}

/** How many whole segments a session reads at once. A model whose `advance` is its own is asked for each by itself. */
export function segmentsAtOnce(model: SessionModel): number {
  if (model.advanceAll === undefined || !holds(model, "advanceAll", "advance")) return 1;
  return model.segmentsAtOnce ?? 1;
}

/**
 * Whether `fast` does what `plain` does: no class between the object and the one that has `fast` has put its own over
 * it.
 */
function holds(model: SessionModel, fast: keyof SessionModel, plain: keyof SessionModel): boolean {
  let owner: object = model;
  while (!Object.hasOwn(owner, fast)) {
    if (Object.hasOwn(owner, plain)) return false;
    owner = Object.getPrototypeOf(owner) as object;
  }
  return true;
}

/** Tokens that were taken in before anyone had looked at them. */
interface Ahead {
  readonly count: number;
  /** After the last of them. */
  readonly logits: Tensor;
  /** Which they were; undefined: nobody knows yet. */
  tokens: readonly number[] | undefined;
}

/**
 * The open segment of one session: a decoder of one slot that catches up with what the session holds. Tokens that were
 * drawn may go ahead: their steps are under way while JavaScript still waits to learn which they are. If the session
 * then goes on with another, the segment is computed anew.
 */
export class OpenSegment implements Disposable {
  readonly #decoder: Decoder;
  #revision: unknown;
  #logits: Tensor | undefined;
  readonly #ahead: Ahead[] = []; // after #logits, in their order

  constructor(decoder: Decoder) {
    this.#decoder = decoder;
  }

  /** How many tokens may be drawn after all that went ahead: the segment's last is taken in by nobody. */
  get room(): number {
    return this.#logits === undefined ? 0 : this.#decoder.length - (this.#decoder.position() ?? 0);
  }

  /** Takes in a token (1) int64, drawn from the logits that were asked for last, that nobody has looked at yet. */
  goAhead(token: Tensor): void {
    if (this.room < 2) return;
    this.#ahead.push({ count: 1, logits: this.#decoder.step(token), tokens: undefined });
  }

  /**
   * Draws a token for each of `points` after all that went ahead, and takes them in, the last with `takeLast`; at most
   * {@link room}. Returns the tokens (N, 1) int64.
   */
  run(points: Float64Array, sampling: RunSampling, takeLast: boolean): Tensor {
    const before = this.#ahead.at(-1)?.logits ?? this.#logits!;
    const { tokens, logits } = this.#decoder.run(before, points, sampling, [0], takeLast);
    this.#ahead.push({ count: takeLast ? points.length : points.length - 1, logits, tokens: undefined });
    return tokens;
  }

  /** Which the first were of those that went ahead unknown, with the one that was not taken in, if there is. */
  wentAhead(tokens: readonly number[]): void {
    const first = this.#ahead.find((ahead) => ahead.tokens === undefined);
    if (first !== undefined) first.tokens = tokens;
  }

  /**
   * Logits (1, V) of the token after `tokens`, which begin the segment that `begin` gives; they are the segment's, and
   * freed by it. `revision`: of the weights; when it changes, or after a failure, everything is computed anew.
   */
  logits(tokens: readonly number[], revision: unknown, begin: () => { segment: SegmentTensors; state: State }): Tensor {
    this.#catchUp(tokens, revision);
    const made = this.#logits === undefined ? -1 : (this.#decoder.position() ?? -1);
    if (made === tokens.length) return this.#logits!;
    if (made < 0 || made > tokens.length) {
      const { segment, state } = begin();
      try {
        this.#keep(this.#decoder.begin(segment, state));
      } finally {
        disposeSegment(segment);
      }
      this.#revision = revision;
      if (tokens.length > 0) this.#keep(this.#decoder.prefill(tokens));
    } else {
      const rest = tokens.slice(made);
      this.#keep(rest.length === 1 ? this.#decoder.step(rest) : this.#decoder.prefill(rest));
    }
    return this.#logits!;
  }

  /**
   * The state after the segment of these tokens, the last of which was drawn from {@link logits}; undefined where it
   * was not. The segment is closed.
   */
  end(tokens: readonly number[], revision: unknown): State | undefined {
    this.#catchUp(tokens, revision);
    const there = this.#logits !== undefined && this.#decoder.position() === tokens.length - 1;
    const state = there ? this.#decoder.end() : undefined;
    this.forget();
    return state;
  }

  /** The next call begins anew. */
  forget(): void {
    for (const { logits } of this.#ahead.splice(0)) logits.dispose();
    this.#logits?.dispose();
    this.#logits = undefined;
  }

  [Symbol.dispose](): void {
    this.forget();
    this.#decoder.dispose();
  }

  /** Takes the steps that went ahead of these tokens for theirs; forgets everything where they were of others. */
  #catchUp(tokens: readonly number[], revision: unknown): void {
    if (this.#revision !== revision) this.forget();
    let at = (this.#decoder.position() ?? 0) - this.#ahead.reduce((sum, { count }) => sum + count, 0);
    while (this.#ahead.length > 0) {
      const { count, logits, tokens: those } = this.#ahead[0]!;
      for (let i = 0; i < count; i++) if (those?.[i] !== tokens[at + i]) return this.forget();
      this.#ahead.shift();
      this.#keep(logits);
      at += count;
    }
  }

  #keep(logits: Tensor): void {
    this.#logits?.dispose();
    this.#logits = logits;
  }
}
