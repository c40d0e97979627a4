/** The images of the experiment `mnist`: the published ones, or a few that are generated, in files of the same form. */
import { join } from "node:path";
import { imageSource, Random, readIdx, type TokenSource } from "../data/index.ts";
import { mnistImages } from "../data/mnist.ts";
import { MemformerError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { makeFolder } from "../files/make-folder.ts";

export interface Images {
  readonly train: TokenSource;
  readonly test: TokenSource;
}

/**
 * From `mnist:FOLDER`, or the folder itself. Throws MemformerError DATA where it is not given, with how to get it, and
 * for files that are not the published ones.
 */
export async function publishedImages(data: string | undefined): Promise<Images> {
  if (data === undefined) {
    throw new MemformerError(
      "DATA",
      "this budget needs the images of MNIST: get train-images-idx3-ubyte.gz and t10k-images-idx3-ubyte.gz (the IDX files that Yann LeCun published; PyTorch's torchvision.datasets.MNIST(folder, download=True) leaves them in folder/MNIST/raw), and name their folder: --data mnist:FOLDER",
    );
  }
  return mnistImages(data.replace(/^mnist:/, ""));
}

/** `side` x `side` pixels: a bright stroke on black, from a random place in a random direction. */
export async function generatedImages(
  folder: string,
  side: number,
  counts: readonly [number, number],
): Promise<Images> {
  await makeFolder(folder);
  const [train, test] = await Promise.all(
    counts.map(async (count, seed) => {
      const path = join(folder, `generated-${side}-${count}-${seed}-images-idx3-ubyte`);
      await writeFileAtomic(path, (handle) => handle.writeFile(strokes(count, side, seed)));
      return imageSource(await readIdx(path));
    }),
  );
  return { train: train!, test: test! };
}

/** An IDX file of (count, side, side) bytes. */
function strokes(count: number, side: number, seed: number): Buffer {
  const header = Buffer.alloc(16),
    pixels = Buffer.alloc(count * side * side),
    random = new Random(seed);
  [0x0803, count, side, side].forEach((value, i) => header.writeUInt32BE(value, 4 * i));
  for (let image = 0; image < count; image++) {
    let [row, column] = [random.below(side), random.below(side)];
    const down = random.below(3) - 1,
      right = 1 - random.below(2) * 2;
    for (let i = 0; i < side; i++) {
      pixels[(image * side + row) * side + column] = 200 + random.below(56);
      row = (row + down + side) % side;
      column = (column + right + side) % side;
    }
  }
  return Buffer.concat([header, pixels]);
}
