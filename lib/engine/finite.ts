/** NaN and infinity where they would be kept or acted on: looked for by the engine, where the numbers are. */
import { MemformerError } from "../errors.ts";
import { applyOperator, tidy, type Tensor } from "./tensor.ts";

/** Whether all numbers of a tensor are finite. */
export async function isFinite(tensor: Tensor): Promise<boolean> {
  using all = tidy(() => applyOperator("aten::all", applyOperator("aten::isfinite", tensor)));
  return (await all.item()) === 1;
}

/** Of `what`, a tensor or a file's tensor, that holds NaN or infinity. */
export function notFinite(what: string, details: Readonly<Record<string, unknown>> = {}): MemformerError {
  return new MemformerError("NOT_FINITE", `${what} holds numbers that are not finite`, { details });
}
