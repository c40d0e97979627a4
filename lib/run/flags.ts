/** Options by the names of their flags, as messages and run files have them. */
import type { z } from "zod";

/** `encoderLayers` → `encoder-layers`. */
export function flagName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** Of `values`, those that `schema` has a key for. */
export function pick(schema: z.ZodObject, values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(values).filter(([key, value]) => key in schema.shape && value !== undefined),
  );
}
