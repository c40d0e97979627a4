/** Options that were renamed: what older files still hold, and what an older name in a call or a flag means. */

/** The name of today by the older one. */
export const oldNames: Readonly<Record<string, string>> = {
  variant: "architecture",
  segment: "segmentLength",
  together: "segmentsPerStep",
  rate: "learningRate",
  finalRate: "finalLearningRate",
};

/** The name of today of an option, undefined if `name` is no older one. */
export function newName(name: string): string | undefined {
  return Object.hasOwn(oldNames, name) ? oldNames[name] : undefined;
}

/**
 * `options` as a file holds them, under the names of today. An older name stays where the new one is given too, so that
 * the check that follows refuses it; anything but an object of options stays as it is.
 */
export function withNewNames<Options>(options: Options): Options {
  if (typeof options !== "object" || options === null || Array.isArray(options)) return options;
  const entries = Object.entries(options).map(([name, value]): [string, unknown] => {
    const renamed = newName(name);
    return [renamed === undefined || Object.hasOwn(options, renamed) ? name : renamed, value];
  });
  return Object.fromEntries(entries) as Options;
}
