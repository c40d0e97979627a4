/** Pictures: grids of pixels, figures as PNG, and digits that a model draws and completes. */
import { expect } from "chai";
import { PNG } from "pngjs";
import { Memformer, Random } from "../lib/index.ts";
import { drawnImages } from "../lib/experiments/mnist-pictures.ts";
import { svg } from "../lib/experiments/report/chart.ts";
import { figurePng, gridPng } from "../lib/experiments/report/png.ts";

describe("experiments: pictures", () => {
  it("lays images out in lines, their pixels as they are", () => {
    const images = [0, 1, 2].map((i) => Uint8Array.of(10 * i, 20 * i, 30 * i, 250)),
      png = PNG.sync.read(gridPng({ images, side: 2, columns: 2, scale: 3 }));
    expect([png.width, png.height]).to.deep.equal([2 + 2 * 8, 2 + 2 * 8]);
    const at = (x: number, y: number): number => png.data[4 * (y * png.width + x)]!;
    images.forEach((image, i) => {
      for (let pixel = 0; pixel < 4; pixel++) {
        const [x, y] = [2 + (i % 2) * 8 + (pixel % 2) * 3, 2 + Math.floor(i / 2) * 8 + Math.floor(pixel / 2) * 3];
        expect([at(x, y), at(x + 2, y + 2)], `image ${i}, pixel ${pixel}`).to.deep.equal([image[pixel], image[pixel]]);
      }
    });
    expect(at(0, 0), "ground").to.equal(at(10, 10));
  });

  it("draws a figure as PNG, twice its size", async () => {
    const axis = { label: "x", scale: "linear" } as const;
    const drawn = svg({
      name: "c",
      title: "t",
      x: axis,
      y: axis,
      series: [
        {
          name: "s",
          points: [
            [0, 0],
            [1, 1],
          ],
        },
      ],
    });
    const png = PNG.sync.read((await figurePng(drawn))!);
    expect([png.width, png.height]).to.deep.equal([1440, 800]);
    expect(new Set(png.data).size, "not of one shade").to.be.above(5);
  });

  for (const options of [{}, { architecture: "decoder" }, { architecture: "transformer-xl" }] as const) {
    it(`keeps the half that is given, and draws the rest by the seed: ${"architecture" in options ? options.architecture : "memformer"}`, async () => {
      await using model = await Memformer.create({ preset: "tiny", ...options, segmentLength: 6, device: "cpu" });
      const half = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8); // ends inside a segment
      const images = async (seed: number): Promise<number[][]> =>
        (await drawnImages(model, [half, half], 16, new Random(seed))).map((image) => [...image]);
      const first = await images(1);
      for (const image of first) expect(image.slice(0, 8)).to.deep.equal([...half]);
      expect(first[0]).to.not.deep.equal(first[1]);
      expect(await images(1)).to.deep.equal(first);
      expect(await images(2)).to.not.deep.equal(first);
    });
  }
});
