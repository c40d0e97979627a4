/** The gradient methods by name. */
import { bptt } from "./bptt.ts";
import { checkpointing } from "./checkpointing.ts";
import { mrbp } from "./mrbp.ts";
import type { GradientMethod } from "./window.ts";

/** The gradient methods by name. */
export const gradientMethods = { mrbp, bptt, checkpointing } as const satisfies Record<string, GradientMethod>;
/** The name of a gradient method: `mrbp`, `bptt` or `checkpointing`. */
export type GradientMethodName = keyof typeof gradientMethods;
