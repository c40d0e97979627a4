/** Pictures as PNG: of pixels, and of a figure's SVG where `@resvg/resvg-js` is installed. */
import { PNG } from "pngjs";

/** Pictures of one size side by side, row by row, each pixel so many wide and high, on a grey ground. */
export interface Grid {
  /** (side, side) of 0 to 255 each. */
  readonly images: readonly Uint8Array[];
  readonly side: number;
  readonly columns: number;
  readonly scale: number;
}

const GROUND = 96;

/** A PNG in shades of grey. */
export function gridPng({ images, side, columns, scale }: Grid): Buffer {
  const cell = side * scale + 2,
    lines = Math.ceil(images.length / columns);
  const png = new PNG({ width: columns * cell + 2, height: lines * cell + 2, colorType: 0, bitDepth: 8 });
  for (let at = 0; at < png.data.length; at += 4) png.data.set([GROUND, GROUND, GROUND, 255], at);
  images.forEach((image, i) => {
    const left = 2 + (i % columns) * cell,
      top = 2 + Math.floor(i / columns) * cell;
    for (let y = 0; y < side * scale; y++)
      for (let x = 0; x < side * scale; x++) {
        const shade = image[Math.floor(y / scale) * side + Math.floor(x / scale)]!;
        png.data.fill(shade, 4 * ((top + y) * png.width + left + x), 4 * ((top + y) * png.width + left + x) + 3);
      }
  });
  return PNG.sync.write(png, { colorType: 0 });
}

/** Undefined where the package is not installed. */
export async function figurePng(svg: string): Promise<Buffer | undefined> {
  const resvg = await import("@resvg/resvg-js").catch(() => undefined);
  if (resvg === undefined) return undefined;
  return new resvg.Resvg(svg, { fitTo: { mode: "zoom", value: 2 } }).render().asPng();
}
