/** Quantities as people read them. */

/** `1434000` → `"1.4 MB"`, `512` → `"512 B"`; powers of 1000, one decimal below 10 of a unit, none from there on. */
export function formatBytes(bytes: number): string {
  return scaled(bytes, ["B", "kB", "MB", "GB", "TB"], (value, unit) => (unit === 0 || value >= 9.95 ? 0 : 1));
}

/** Tokens per second: `12345` → `"12.3 k tok/s"`, `950` → `"950 tok/s"`. */
export function formatRate(tokensPerSecond: number): string {
  return scaled(tokensPerSecond, ["tok/s", "k tok/s", "M tok/s", "G tok/s"], (value, unit) =>
    value >= 99.95 || (unit === 0 && value >= 9.95) ? 0 : 1,
  );
}

/** Seconds in their two largest units: `200` → `"3 min 20 s"`, `7500` → `"2 h 5 min"`, `0.84` → `"0.8 s"`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "unknown";
  if (seconds < 0) return `-${formatDuration(-seconds)}`;
  if (seconds < 9.95) return `${Number(seconds.toFixed(1))} s`;
  const units: [string, number][] = [
    ["d", 86400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ];
  // Rounded to the smaller unit shown before it is taken apart, so that no "60 s" or "24 h" appears.
  let whole = Math.round(seconds);
  if (whole >= 3600) whole = Math.round(whole / 60) * 60;
  if (whole >= 86400) whole = Math.round(whole / 3600) * 3600;
  const first = units.findIndex(([, size]) => whole >= size);
  return units
    .slice(first, first + 2)
    .map(([name, size], i) => [Math.floor((i === 0 ? whole : whole % units[first]![1]) / size), name] as const)
    .filter(([count], i) => i === 0 || count > 0)
    .map(([count, name]) => `${count} ${name}`)
    .join(" ");
}

/** A number with `digits` significant digits (default 4), trailing zeros kept lest columns dance: `2.4` → `"2.400"`. */
export function formatNumber(value: number, digits = 4): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return value.toExponential(digits - 1);
  const text = value.toPrecision(digits);
  return text.includes("e") ? String(Number(text)) : text;
}

function scaled(value: number, units: readonly string[], decimals: (value: number, unit: number) => number): string {
  if (!Number.isFinite(value)) return `${value} ${units[0]}`;
  let unit = 0;
  let size = Math.abs(value);
  // 999.5 is where rounding would show "1000" of a unit.
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000;
    unit++;
  }
  return `${value < 0 ? "-" : ""}${size.toFixed(decimals(size, unit))} ${units[unit]}`;
}
