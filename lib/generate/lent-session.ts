/** A session in the hands of a scheduler. */
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import type { DocumentState } from "./document-state.ts";
import type { Drawing, DrawOptions } from "./draw.ts";
import type { GenerateOptions } from "./generate-options.ts";
import type { Turn } from "./turn.ts";

/** @internal What a scheduler does with a session. */
export interface LentSession {
  readonly document: DocumentState;
  readonly tokenizer: Tokenizer;
  drawing(options: DrawOptions): Drawing;
  turn(stop: GenerateOptions["stop"]): Turn;
  /**
   * Reads tokens from `at` on: to the end of the segment under way, or up to `mostSegments` whole segments. Returns how
   * many tokens.
   */
  readOn(tokens: ArrayLike<number>, at: number, mostSegments: number): number;
  /** Ends the segment under way, all of which was drawn. */
  advance(): void;
  /** Leaves in the document what a turn that began at `start` has handed out. */
  settle(turn: Turn, start: number): void;
  /** Text was read: no character is left unfinished. */
  wasRead(): void;
  giveBack(): void;
}
