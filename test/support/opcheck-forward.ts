/** Checks an operator's results, in every dtype and layout, on dirty memory. Each check returns its complaints. */
import { type Allowed, compare, errorOf, meanErrorOf } from "./opcheck-compare.ts";
import { dtypeOf, EPSILON, type FloatingDType, type Found, type Numbers } from "./opcheck-numbers.ts";
import { roundedAll, run } from "./opcheck-run.ts";
import type { Argument, Call, OperatorSpec, UploadedAll } from "./opcheck-spec.ts";

/** Relative error allowed in float64, for results and for one layout against another. */
export const EXACT = 1e-12;

type AnySpec<Args extends readonly Argument[]> = Pick<OperatorSpec<never, Args>, "reference" | "plain">;

/** float64 results equal those of the plain loops, whatever the freed memory held. */
export async function checkReference<Args extends readonly Argument[]>(
  spec: AnySpec<Args>,
  args: Args,
  call: Call,
  allowed = EXACT,
): Promise<string[]> {
  const expected = spec.reference(...args);
  return compareAll(await run(call, args), expected, "float64", () => allowed);
}

/** Again with other garbage in freed memory: the same bits. */
export async function checkRepeats(args: readonly Argument[], call: Call): Promise<string[]> {
  const [first, second] = [await run(call, args, { stale: 0xff }), await run(call, args, { stale: 0x3f })];
  return first.flatMap(({ data }, i) => {
    const at = data.findIndex((value, j) => !Object.is(value, second[i]!.data[j]));
    return at < 0 ? [] : [`result ${i} is not the same twice: ${data[at]}, then ${second[i]!.data[at]} at ${at}`];
  });
}

/** Inputs that lie otherwise in memory make no difference. */
export async function checkStrided(args: readonly Argument[], call: Call): Promise<string[]> {
  const plain = await run(call, args);
  const expected = plain.map(({ shape, data }): Numbers => ({ shape, data, kind: "floating" }));
  const strided = await run(call, args, { layout: "strided" });
  return strided.flatMap((found, i) => compare(`result ${i}, strided`, found, expected[i]!, EXACT));
}

/** In a narrow dtype, at most twice the mean error of composed ATen and of one rounding. */
export async function checkPrecision<Args extends readonly Argument[]>(
  spec: AnySpec<Args>,
  args: Args,
  call: Call,
  dtype: FloatingDType,
): Promise<string[]> {
  const narrow = roundedAll(args, dtype),
    expected = spec.reference(...narrow);
  const plain = await run(plainCall(spec), narrow, { dtype });
  const found = await run(call, narrow, { dtype });
  return compareAll(found, expected, dtype, (i) => twicePlain(plain[i]!, expected[i]!, dtype), meanErrorOf);
}

/** The mean error a narrow result may have. */
export function twicePlain(plain: Found, expected: Numbers, dtype: FloatingDType): number {
  const actual = dtypeOf(expected.kind, dtype);
  const rounding = actual in EPSILON ? EPSILON[actual as FloatingDType] / 2 : 0;
  return 2 * (meanErrorOf(plain.data, expected.data) + rounding);
}

export function plainCall<Args extends readonly Argument[]>(spec: AnySpec<Args>): Call {
  return (...args) => [...spec.plain(...(args as unknown as UploadedAll<Args>))];
}

function compareAll(
  found: readonly Found[],
  expected: readonly Numbers[],
  dtype: FloatingDType,
  allowed: Allowed,
  measure = errorOf,
): string[] {
  if (found.length !== expected.length) return [`${expected.length} results expected, ${found.length} came`];
  return found.flatMap((result, i) => {
    const wanted = dtypeOf(expected[i]!.kind, dtype);
    if (result.dtype !== wanted) return [`result ${i} in ${dtype} is ${result.dtype}, expected ${wanted}`];
    const exact = wanted === "int64" || wanted === "bool";
    return compare(`result ${i} in ${dtype}`, result, expected[i]!, exact ? 0 : allowed(i), measure);
  });
}
