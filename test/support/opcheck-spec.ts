/** The description of an operator in its `.spec.ts`, which the harness proves. */
import type { ErrorCode } from "../../lib/errors.ts";
import type { Tensor } from "../../lib/index.ts";
import type { Draw, FloatingDType, Numbers } from "./opcheck-numbers.ts";

/** An argument that is the dtype under test; an operator gets LibTorch's number of it. */
export const TESTED_DTYPE = Symbol("the dtype under test");

export type Argument = Numbers | number | null | typeof TESTED_DTYPE;
export type Uploaded<T> = T extends Numbers ? Tensor : T extends symbol ? number : T;
export type UploadedAll<Args extends readonly Argument[]> = { [K in keyof Args]: Uploaded<Args[K]> };

/** The operator itself, or a stand-in for it. */
export type Call = (...args: (Tensor | number | null)[]) => Tensor[];

/** A call that must fail, and how. */
export interface Misuse<Args extends readonly Argument[]> {
  readonly what: string;
  /** The arguments of the first case, with one mistake. */
  arguments(...args: Args): readonly Argument[];
  readonly code: ErrorCode;
  readonly message: RegExp;
}

/**
 * What else a case is chosen for, beside its turn among all cases (scripts/gpu-check.sh):
 * - `sanitize`: compute-sanitizer runs on it;
 * - `cudnn`: LibTorch's cuDNN computes its forward pass on a GPU, which initcheck cannot follow.
 */
export type Tag = "sanitize" | "cudnn";

/** What every case has, beside its shapes. */
export interface SpecCase {
  /** Its name, which can be read without those of its neighbours. */
  readonly what: string;
  readonly tags?: readonly Tag[];
}

/** The title of its tests: the name, then each tag in brackets. */
export function titleOf({ what, tags = [] }: SpecCase): string {
  return [what, ...tags.map((tag) => `[${tag}]`)].join(" ");
}

export interface OperatorSpec<Case extends SpecCase, Args extends readonly Argument[]> {
  /** In the dispatcher, as "memformer::biased_norm". */
  readonly name: string;
  /** Shapes: odd, tiny, of size 1, larger, empty where that is allowed. */
  readonly cases: readonly Case[];
  inputs(shape: Case, draw: Draw): Args;
  /** How it is called with these arguments. Default: with one after the other. */
  call?(...args: UploadedAll<Args>): Tensor[];
  /** The results, by plain loops. */
  reference(...args: Args): readonly Numbers[];
  /** The results by composed ATen: whose error in a narrow dtype is the measure for the operator's own. */
  plain(...args: UploadedAll<Args>): readonly Tensor[];
  /** Whether LibTorch's own kernels do it on a GPU in that dtype: those need not give the same bits twice. */
  leftToLibTorch?(shape: Case, dtype: FloatingDType): boolean;
  readonly misuses: readonly Misuse<Args>[];
}

/** A spec of which nobody knows its types any more. */
export type RegisteredSpec = OperatorSpec<SpecCase, readonly Argument[]>;

export function isNumbers(argument: Argument): argument is Numbers {
  return typeof argument === "object" && argument !== null;
}
