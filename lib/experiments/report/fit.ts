/** Straight lines through measured points. */

export interface Line {
  readonly intercept: number;
  readonly slope: number;
  /** Share of the variance that the line explains, 0 to 1; 1 where there is no variance. */
  readonly r2: number;
}

/** The line of least squares; undefined of fewer than two different x. Points that are no numbers are left out. */
export function fitted(points: readonly (readonly [x: number, y: number])[]): Line | undefined {
  const known = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y)),
    count = known.length;
  const meanX = known.reduce((sum, [x]) => sum + x, 0) / count,
    meanY = known.reduce((sum, [, y]) => sum + y, 0) / count;
  let xx = 0,
    xy = 0,
    yy = 0;
  for (const [x, y] of known) {
    xx += (x - meanX) ** 2;
    xy += (x - meanX) * (y - meanY);
    yy += (y - meanY) ** 2;
  }
  if (!(xx > 0)) return undefined;
  const slope = xy / xx;
  const intercept = meanY - slope * meanX,
    rounding = 1e-9 * Math.max(...known.map(([, y]) => Math.abs(y)));
  return { intercept: Math.abs(intercept) < rounding ? 0 : intercept, slope, r2: yy === 0 ? 1 : xy ** 2 / (xx * yy) };
}

/** `12.3 + 0.0456 x, R² 0.9991`; a dash where there is no line. */
export function lineText(line: Line | undefined, x: string): string {
  if (line === undefined) return "–";
  const { intercept, slope, r2 } = line,
    digits = (value: number): string => String(Number(value.toPrecision(3)));
  return `${digits(intercept)} ${slope < 0 ? "−" : "+"} ${digits(Math.abs(slope))} ${x}, R² ${r2.toFixed(4)}`;
}
