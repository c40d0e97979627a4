/** Where two pieces of plain JSON differ. */

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** The path of the first difference, such as `train.learningRate`, and both values; undefined where there is none. */
export function firstDifference(
  one: unknown,
  other: unknown,
  path = "",
): { readonly path: string; readonly one: unknown; readonly other: unknown } | undefined {
  if (isObject(one) && isObject(other)) {
    for (const key of new Set([...Object.keys(one), ...Object.keys(other)])) {
      const found = firstDifference(one[key], other[key], path === "" ? key : `${path}.${key}`);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  return JSON.stringify(one) === JSON.stringify(other) ? undefined : { path, one, other };
}

function isObject(value: unknown): value is { readonly [key: string]: Json } {
  return typeof value === "object" && value !== null;
}
