/** What every operator over a fused QKV projection with rotary positions refuses, whatever arguments follow. */
import { numbers } from "./opcheck-numbers.ts";
import type { Argument, Misuse } from "./opcheck-spec.ts";

/**
 * Of `op`, for qkv (3, 5, 54), bias, bias_sink, cos, sin (5, 3) as the first five arguments and 3 heads as that at
 * `heads`.
 */
export function rotaryMisuses(op: string, heads: number): readonly Misuse<readonly Argument[]>[] {
  const said = (words: string): RegExp => new RegExp(`^${op}: ${words}$`);
  return [
    {
      what: "a bias of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(1, numbers([18])),
      message: said("bias must have shape \\(54\\), got \\[18\\]"),
    },
    {
      what: "a sink of another width",
      code: "SHAPE",
      arguments: (...args) => args.with(2, numbers([18])),
      message: said("bias_sink must have shape \\(54\\), got \\[18\\]"),
    },
    {
      what: "a sink without bias",
      code: "CONFIG",
      arguments: (...args) => args.with(1, null).with(2, numbers([54])),
      message: said("a bias_sink needs a bias"),
    },
    {
      what: "a width that the heads do not divide",
      code: "CONFIG",
      arguments: (...args) => args.with(0, numbers([3, 5, 55])),
      message: said("qkv's width must be 3 x heads x an even number, got 55 with 3 heads"),
    },
    {
      what: "no heads",
      code: "CONFIG",
      arguments: (...args) => args.with(heads, 0),
      message: said("qkv's width must be 3 x heads x an even number, got 54 with 0 heads"),
    },
    {
      what: "qkv that is no (B, T, 3 D)",
      code: "SHAPE",
      arguments: (...args) => args.with(0, numbers([5, 54])),
      message: said("qkv must have shape \\(any, any, any\\), got \\[5, 54\\]"),
    },
    {
      what: "angles of other positions",
      code: "SHAPE",
      arguments: (...args) => args.with(3, numbers([4, 3])),
      message: said("cos must have shape \\(5, 3\\), got \\[4, 3\\]"),
    },
    {
      what: "angles of another dtype",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          4,
          numbers([5, 3], () => 0, "int32"),
        ),
      message: said("sin must be Double, got Int"),
    },
    {
      what: "whole numbers",
      code: "DTYPE",
      arguments: (...args) =>
        args.with(
          0,
          numbers([3, 5, 54], () => 1, "int64"),
        ),
      message: said("qkv must be float32, float64 or bfloat16, got Long"),
    },
  ];
}
