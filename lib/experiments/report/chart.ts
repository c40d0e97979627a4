/** A figure as SVG: lines over a number, on linear or logarithmic axes. */
import { scaleLinear, scaleLog } from "d3-scale";

export interface Axis {
  readonly label: string;
  readonly scale: "linear" | "log";
}

/** Points in the order of x. */
export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface Chart {
  /** A name for its file: letters, digits and hyphens. */
  readonly name: string;
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
  /** Places on the x axis that are named: a dashed line each, drawn where points lie around it. */
  readonly marks?: readonly { readonly at: number; readonly label: string }[];
}

/** Told apart by people who see few colours (Okabe and Ito), and by their marks. */
const colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const dashes = ["", "6 3", "2 3", "8 3 2 3"];

const width = 720,
  height = 400,
  box = { left: 70, right: 190, top: 40, bottom: 50 };

/** Points that are no numbers, or not positive on a logarithmic axis, are left out. */
export function svg({ title, x, y, series, marks = [] }: Chart): string {
  const fits = ({ scale }: Axis, value: number): boolean => Number.isFinite(value) && (scale !== "log" || value > 0);
  const drawn = series.map(({ name, points }) => ({
    name,
    points: points.filter(([at, value]) => fits(x, at) && fits(y, value)),
  }));
  const points = drawn.flatMap((line) => line.points);
  const across = scaleOf(
      x,
      points.map(([at]) => at),
      [box.left, width - box.right],
      false,
    ),
    up = scaleOf(
      y,
      points.map(([, value]) => value),
      [height - box.bottom, box.top],
      true,
    );
  const place = ([at, value]: readonly [number, number]): string => `${fixed(across(at))},${fixed(up(value))}`;
  const ticksX = x.scale === "log" ? [...new Set(points.map(([at]) => at))].sort((a, b) => a - b) : across.ticks(8),
    format = across.tickFormat(8);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="12" role="img" aria-label="${escaped(title)}">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    `<text x="10" y="20" font-size="14">${escaped(title)}</text>`,
    ...up.ticks(6).map((value) => {
      const at = fixed(up(value));
      return `<path d="M${box.left} ${at}H${width - box.right}" stroke="#ddd"/><text x="${box.left - 6}" y="${at}" dy="4" text-anchor="end">${up.tickFormat(6)(value)}</text>`;
    }),
    ...ticksX.map(
      (at) =>
        `<text x="${fixed(across(at))}" y="${height - box.bottom + 18}" text-anchor="middle">${x.scale === "log" ? String(at) : format(at)}</text>`,
    ),
    ...marks
      .filter(({ at }) => points.some(([of]) => of <= at) && points.some(([of]) => of >= at))
      .map(({ at, label }) => {
        const place = fixed(across(at));
        return `<path d="M${place} ${box.top}V${height - box.bottom}" stroke="#555" stroke-dasharray="4 4"/><text x="${place}" y="${box.top - 4}" text-anchor="middle">${escaped(label)}</text>`;
      }),
    `<path d="M${box.left} ${box.top}V${height - box.bottom}H${width - box.right}" fill="none" stroke="#555"/>`,
    `<text x="${(box.left + width - box.right) / 2}" y="${height - 10}" text-anchor="middle">${escaped(x.label)}</text>`,
    `<text transform="translate(16 ${(box.top + height - box.bottom) / 2}) rotate(-90)" text-anchor="middle">${escaped(y.label)}</text>`,
    ...drawn.flatMap((line, i) => {
      const colour = colours[i % colours.length]!,
        legend = box.top + 12 + 20 * i,
        left = width - box.right + 14;
      const dash = dashes[Math.floor(i / colours.length) % dashes.length]!,
        stroke = `stroke="${colour}" stroke-width="2"${dash === "" ? "" : ` stroke-dasharray="${dash}"`}`;
      return [
        `<polyline fill="none" ${stroke} points="${line.points.map(place).join(" ")}"/>`,
        ...line.points.map(
          (point) =>
            `<circle cx="${fixed(across(point[0]))}" cy="${fixed(up(point[1]))}" r="3" fill="${colour}"><title>${escaped(line.name)}: ${point[0]}, ${Number(point[1].toPrecision(5))}</title></circle>`,
        ),
        `<path d="M${left} ${legend}h18" ${stroke}/><text x="${left + 24}" y="${legend + 4}">${escaped(line.points.length === 0 ? `${line.name} (not run)` : line.name)}</text>`,
      ];
    }),
    "</svg>",
  ].join("\n");
}

interface Scale {
  (value: number): number;
  ticks(count: number): number[];
  tickFormat(count: number): (value: number) => string;
}

function scaleOf(axis: Axis, values: readonly number[], range: readonly [number, number], fromZero: boolean): Scale {
  const least = Math.min(...values),
    most = Math.max(...values);
  if (values.length === 0) return scaleLinear([0, 1], range);
  if (axis.scale === "log") {
    const scale = scaleLog(least === most ? [least / 2, most * 2] : [least, most], range);
    return fromZero ? scale.nice() : scale;
  }
  const whole: [number, number] = least === most ? [least - 1, most + 1] : [least, most];
  return scaleLinear(fromZero && least >= 0 && least < most / 2 ? [0, most] : whole, range).nice();
}

function fixed(value: number): string {
  return value.toFixed(1);
}

/** Text in XML. */
export function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}
