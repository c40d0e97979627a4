/** A step of evaluation: losses with the memory and with what an ablation puts in its place. */
import type { State } from "./state.ts";
import type { Tensor } from "../engine/tensor.ts";

/**
 * The replacement that each segment reads in place of the memory:
 * - `initial`: the learned start, as at the beginning of a document;
 * - `zeroed`: zeros, which no model has met in training: dependence on the memory and the shift of a missing constant
 *   in one;
 * - `shuffled`: the memory of the row above in the batch, of another text: dependence on what the memory holds;
 * - `frozen`: the memory after the document's first segment of text, for the rest of the document: dependence on later
 *   updates.
 */
export type Ablation = "initial" | "zeroed" | "shuffled" | "frozen";
/** All of them, in the order in which they are reported. */
export const ABLATIONS: readonly Ablation[] = ["initial", "zeroed", "shuffled", "frozen"];

/** The state that {@link Memformer.score} carries from segment to segment. */
export interface ScoringState {
  readonly memory: State;
  /**
   * Of "frozen": the memory held, and (B) bool, the rows that hold it. Empty before the first segment and without that
   * ablation.
   */
  readonly held: State;
}

/** The losses of G consecutive segments with the memory and with A ablations of it. */
export interface Scored {
  /**
   * (1 + A, G) mean negative log-likelihood of each segment's scored targets, nats: with the memory, then for each
   * ablation.
   */
  readonly losses: Tensor;
  /** (G) int64, how many targets were scored. */
  readonly counts: Tensor;
  readonly state: ScoringState;
}
