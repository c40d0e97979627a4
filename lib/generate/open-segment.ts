/** The segment that a session is in the middle of, decoded token by token. */
import type { Tensor } from "../engine/tensor.ts";
import type { State } from "../model/recurrence.ts";
import { disposeSegment, type SegmentTensors } from "../model/segment-tensors.ts";
import type { Decoder } from "./decoder.ts";
import type { SessionModel } from "./session-model.ts";

/**
 * Whether a session decodes token by token: where the model has a decoder.
 * A model whose `logits` are its own, put over its class's, is asked for those.
 */
export function decodes(model: SessionModel): model is SessionModel & Required<Pick<SessionModel, "decoder">> {
  if (model.decoder === undefined) return false;
  let owner: object = model;
  while (!Object.hasOwn(owner, "decoder")) {
    if (Object.hasOwn(owner, "logits")) return false;
    owner = Object.getPrototypeOf(owner) as object;
  }
  return true;
}

/**
 * The open segment of one session: a decoder of one slot that catches up with what the session holds. A token that was
 * drawn may go ahead: its step is under way while JavaScript still waits to learn which it is. If the session then goes
 * on with another, the segment is computed anew.
 */
export class OpenSegment implements Disposable {
  readonly #decoder: Decoder;
  #revision: unknown;
  #logits: Tensor | undefined;
  #ahead: { readonly logits: Tensor; token: number | undefined } | undefined;

  constructor(decoder: Decoder) {
    this.#decoder = decoder;
  }

  /** Takes a token (1) int64, drawn from the logits that were asked for last, that nobody has looked at yet. */
  goAhead(token: Tensor): void {
    const { length } = this.#decoder,
      position = this.#decoder.position();
    if (this.#ahead !== undefined || position === undefined || position + 1 >= length) return;
    this.#ahead = { logits: this.#decoder.step(token), token: undefined };
  }

  /** Which token it was. */
  wentAhead(token: number): void {
    if (this.#ahead !== undefined) this.#ahead.token = token;
  }

  /**
   * Logits (1, V) of the token after `tokens`, which begin the segment that `begin` gives; they are the segment's, and
   * freed by it. `revision`: of the weights; when it changes, or after a failure, everything is computed anew.
   */
  logits(tokens: readonly number[], revision: unknown, begin: () => { segment: SegmentTensors; state: State }): Tensor {
    if (this.#revision !== revision) this.forget();
    const ahead = this.#ahead;
    if (ahead !== undefined) {
      const before = this.#decoder.position()! - 1;
      if (tokens.length === before) return this.#logits!;
      if (tokens.length !== before + 1 || tokens[before] !== ahead.token) this.forget();
      else {
        this.#ahead = undefined;
        this.#keep(ahead.logits);
      }
    }
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
    const drawn = this.#logits !== undefined && this.#ahead === undefined && this.#revision === revision;
    const state = drawn && this.#decoder.position() === tokens.length - 1 ? this.#decoder.end() : undefined;
    this.forget();
    return state;
  }

  /** The next call begins anew. */
  forget(): void {
    this.#ahead?.logits.dispose();
    this.#ahead = undefined;
    this.#logits?.dispose();
    this.#logits = undefined;
  }

  [Symbol.dispose](): void {
    this.forget();
    this.#decoder.dispose();
  }

  #keep(logits: Tensor): void {
    this.#logits?.dispose();
    this.#logits = logits;
  }
}
