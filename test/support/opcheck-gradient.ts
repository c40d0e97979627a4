/** Checks an operator's gradient: against central differences in float64, then in every dtype and layout. */
import { compare, meanErrorOf } from "./opcheck-compare.ts";
import { EXACT, plainCall, twicePlain } from "./opcheck-forward.ts";
import { dtypeOf, Draw, type FloatingDType, type Numbers, rounded } from "./opcheck-numbers.ts";
import { gradients, isDifferentiable, roundedAll, run } from "./opcheck-run.ts";
import type { Argument, Call, OperatorSpec } from "./opcheck-spec.ts";

const STEP = 1e-6;
const TOLERANCE = 1e-6;
const ELEMENTS = 8; // of an argument are tried one by one; one random direction tries them all at once

/** Random weights of the floating results; null for those without gradient. */
export function cotangentsFor(results: readonly Numbers[], draw: Draw): (Numbers | null)[] {
  return results.map(({ shape, kind }) =>
    kind === "floating" || kind === "accumulated" ? { ...draw.numbers(shape), kind } : null,
  );
}

/** The gradient agrees with differences of the operator's own results. */
export async function checkGradient(
  args: readonly Argument[],
  cotangents: readonly (Numbers | null)[],
  call: Call,
): Promise<string[]> {
  const found = await gradients(call, args, cotangents),
    draw = new Draw(7);
  const complaints: string[] = [];
  for (const [n, i] of differentiable(args).entries()) {
    const value = args[i] as Numbers,
      gradient = found[n]!;
    if (gradient.shape.join() !== value.shape.join()) {
      complaints.push(`the gradient of argument ${i} has shape [${gradient.shape}], expected [${value.shape}]`);
    } else if (gradient.dtype !== "float64") {
      complaints.push(`the gradient of argument ${i} is ${gradient.dtype}, expected float64`);
    } else {
      const tried = directions(value.data.length, draw).map(async ({ what, direction }) => {
        const expected = await difference(args, i, direction, cotangents, call);
        const sent = dot(gradient.data, direction);
        const largest = gradient.data.reduce((most, g) => Math.max(most, Math.abs(g)), 0);
        const scale = Math.max(Math.abs(expected), norm(direction) * largest);
        return Math.abs(sent - expected) <= TOLERANCE * scale + 1e-8
          ? []
          : [`the gradient of argument ${i} is ${sent} ${what}, finite differences give ${expected}`];
      });
      complaints.push(...(await Promise.all(tried)).flat());
    }
  }
  return complaints;
}

/** Arguments and cotangents that lie otherwise in memory make no difference; nor does another run. */
export async function checkGradientLayout(
  args: readonly Argument[],
  cotangents: readonly (Numbers | null)[],
  call: Call,
): Promise<string[]> {
  const first = await gradients(call, args, cotangents);
  const again = await gradients(call, args, cotangents, { stale: 0x3f });
  const strided = await gradients(call, args, cotangents, { layout: "strided" });
  return first.flatMap(({ shape, data }, i) => {
    const expected: Numbers = { shape, data, kind: "floating" };
    return [
      ...compare(`gradient ${i}, again`, again[i]!, expected, 0),
      ...compare(`gradient ${i}, strided`, strided[i]!, expected, EXACT),
    ];
  });
}

/**
 * In a narrow dtype, against the float64 gradient of `exact` at the same numbers, as {@link checkPrecision} does for
 * results.
 */
export async function checkGradientPrecision<Args extends readonly Argument[]>(
  spec: Pick<OperatorSpec<never, Args>, "reference" | "plain">,
  args: Args,
  cotangents: readonly (Numbers | null)[],
  call: Call,
  dtype: FloatingDType,
  exact = call,
): Promise<string[]> {
  const narrow = roundedAll(args, dtype);
  const weights = cotangents.map((cotangent) => (cotangent === null ? null : rounded(cotangent, dtype)));
  const wide = await gradients(exact, narrow, weights);
  const plain = await gradients(plainCall(spec), narrow, weights, { dtype });
  const kinds = narrow.filter(isDifferentiable).map(({ kind }) => kind);
  return (await gradients(call, narrow, weights, { dtype })).flatMap((found, i) => {
    const expected: Numbers = { shape: wide[i]!.shape, data: wide[i]!.data, kind: kinds[i]! };
    const wanted = dtypeOf(expected.kind, dtype);
    if (found.dtype !== wanted) return [`gradient ${i} in ${dtype} is ${found.dtype}, expected ${wanted}`];
    return compare(`gradient ${i} in ${dtype}`, found, expected, twicePlain(plain[i]!, expected, dtype), meanErrorOf);
  });
}

function differentiable(args: readonly Argument[]): number[] {
  return [...args.keys()].filter((i) => isDifferentiable(args[i]!));
}

/** The derivative of sum(cotangents * results) along `direction` of argument i. */
async function difference(
  args: readonly Argument[],
  i: number,
  direction: Float64Array,
  cotangents: readonly (Numbers | null)[],
  call: Call,
): Promise<number> {
  const value = args[i] as Numbers;
  const moved = (step: number): readonly Argument[] =>
    args.with(i, { ...value, data: value.data.map((x, j) => x + step * direction[j]!) });
  const [above, below] = await Promise.all([run(call, moved(STEP)), run(call, moved(-STEP))]);
  return cotangents.reduce(
    (sum, cotangent, r) =>
      cotangent === null
        ? sum
        : sum +
          dot(
            cotangent.data,
            above[r]!.data.map((y, j) => y - below[r]!.data[j]!),
          ) /
            (2 * STEP),
    0,
  );
}

/** The first and the last element, some between them, and all of them. */
function directions(length: number, draw: Draw): { what: string; direction: Float64Array }[] {
  if (length === 0) return [];
  const middle = [...draw.permutation(length)].slice(0, ELEMENTS - 2);
  const single = [...new Set([0, length - 1, ...middle])].map((element) => {
    const direction = new Float64Array(length);
    direction[element] = 1;
    return { what: `at element ${element}`, direction };
  });
  return [...single, { what: "along a random direction", direction: draw.numbers([length]).data }];
}

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

function norm(a: Float64Array): number {
  return Math.sqrt(dot(a, a));
}
