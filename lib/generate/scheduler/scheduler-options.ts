/** Settings of a scheduler, and what it reports. */
import { z } from "zod";
import { checkOptions, optionSchema, optionTypes } from "../../options.ts";
import type { SchedulerPolicy } from "./policy.ts";

/** Settings of a `Scheduler`. */
export interface SchedulerOptions {
  /** Sessions that draw in one step, at most. Default 16. */
  readonly slots?: number | undefined;
  /** Bytes of memories that the engine holds for sessions; the others wait, or are in host memory. Default: any. */
  readonly budgetBytes?: number | undefined;
  /** Turns that may wait to be let in; one more is refused with BUSY. Default 1024. */
  readonly maxWaiting?: number | undefined;
  /** Pieces that a turn makes ahead of who takes them; then it pauses. Default 16. */
  readonly maxAhead?: number | undefined;
  /** Milliseconds after which the memory of a session without a turn moves to host memory. Default: never. */
  readonly idleAfter?: number | undefined;
  /**
   * Whether a session makes the same text alone and among others, to the bit. Default true; false: sessions that reach
   * the end of a segment in the same step go on together, which is faster ({@link DecoderOptions.deterministic}).
   */
  readonly deterministic?: boolean | undefined;
  /** Whether it steps by itself while there is work. Default true; false: you call `step`. */
  readonly drive?: boolean | undefined;
  /** Default {@link fairPolicy}. */
  readonly policy?: SchedulerPolicy | undefined;
  /** Called after every step that read or drew something: metrics, say. What it throws ends all turns. */
  readonly onStep?: ((report: SchedulerStep) => void) | undefined;
}

const schedulerSchema = optionSchema<SchedulerOptions>({
  slots: optionTypes.count.optional(),
  budgetBytes: z.number().positive().optional(),
  maxWaiting: z.int().nonnegative().optional(),
  maxAhead: optionTypes.count.optional(),
  idleAfter: z.number().nonnegative().optional(),
  deterministic: z.boolean().optional(),
  drive: z.boolean().optional(),
  onStep: optionTypes.call.optional(),
  policy: z.custom<SchedulerPolicy>((value) => typeof value === "object" && value !== null).optional(),
});

/** What a step did, and how things stand after it. */
export interface SchedulerReport {
  /** Tokens that were drawn. */
  readonly generated: number;
  /** Turns that they were drawn for. */
  readonly decoding: number;
  /** Tokens that were read. */
  readonly read: number;
  /** Turns that were let in. */
  readonly active: number;
  /** Turns that wait to be. */
  readonly waiting: number;
  /** Bytes of memories that the engine holds for sessions of this scheduler. */
  readonly bytes: number;
  /** Memories moved to host memory since it was made. */
  readonly moves: number;
}

/** A step that read or drew something. */
export interface SchedulerStep extends SchedulerReport {
  /** How long it took, waiting for the engine included. */
  readonly seconds: number;
}

/** Throws MemformerError CONFIG for unknown options and for those out of range. */
export function checkScheduler(options: SchedulerOptions): void {
  checkOptions(schedulerSchema, options, "scheduler");
}
