/** The options of a generation and of a reading, and their checks. */
import { z } from "zod";
import { checkOptions, optionSchema, optionTypes } from "../options.ts";
import { drawShape, type DrawOptions } from "./draw.ts";

/**
 * What a turn leaves in the session when it is broken off by a signal, by leaving its loop or by a failure: "commit",
 * what was handed out until then, or "discard", nothing.
 */
export type OnAbort = "commit" | "discard";

/** How much to generate, how to draw it, and what stops it. */
export interface GenerateOptions extends DrawOptions {
  /** A whole number of at least 0. Default 256. */
  readonly maxTokens?: number | undefined;
  /** Texts that end the generation before they appear in it: one, or several. */
  readonly stop?: string | readonly string[] | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Default "commit". */
  readonly onAbort?: OnAbort | undefined;
}

/** How a text is read. */
export interface ReadOptions {
  /** Between two batches of segments; the promise rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** Of what was read before it failed or was aborted. Default "discard": all is read, or nothing. */
  readonly onAbort?: OnAbort | undefined;
}

const stopText = z
  .string()
  .refine((text) => text !== "" && !/\p{Surrogate}/u.test(text), "expected a text of whole characters");
const onAbort = z.enum(["commit", "discard"]).optional();
const generateSchema = optionSchema<GenerateOptions>({
  ...drawShape,
  maxTokens: z.int().nonnegative().optional(),
  stop: z.union([stopText, z.array(stopText)], "expected a text of at least one character, or several").optional(),
  signal: optionTypes.signal.optional(),
  onAbort,
});
const readSchema = optionSchema<ReadOptions>({ signal: optionTypes.signal.optional(), onAbort });

/** Throws MemformerError CONFIG for unknown options and for those out of range. */
export function checkGenerate(options: GenerateOptions): void {
  checkOptions(generateSchema, options, "generate");
}

/** The same for reading. */
export function checkRead(options: ReadOptions): void {
  checkOptions(readSchema, options, "read");
}

/** The stop strings of an option. */
export function stopsOf(stop: GenerateOptions["stop"]): readonly string[] {
  return typeof stop === "string" ? [stop] : (stop ?? []);
}
