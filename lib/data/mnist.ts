// MNIST as sequences: an image is a document of 784 pixels, row by row, a pixel a token of 256 levels.
import { createHash } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { MemformerError } from "../errors.ts";
import { Dataset } from "./dataset.ts";
import { parseIdx, readWhole, type IdxArray } from "./idx.ts";
import { documentRange, tokensInMemory, type TokenSource } from "./token-source.ts";
import { byteTokenizer, type Tokenizer } from "./tokenizers/tokenizer.ts";

/** MD5 of the unpacked files, as published. */
const published = {
  "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
  "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
} as const;
const validImages = 5_000;

/** Pixels as tokens: text is their levels, 0 to 255, with white space between them. */
export const pixels: Tokenizer = byteTokenizer(
  { name: "pixels", bos: 256 },
  (text) => [
    Int32Array.from(
      text.split(/\s+/).filter((word) => word !== ""),
      (word) => {
        if (/^\d{1,3}$/.test(word) && Number(word) < 256) return Number(word);
        throw new MemformerError("DATA", `${JSON.stringify(word)} is not the level of a pixel, 0 to 255.`);
      },
    ),
  ],
  (token) => Buffer.from(`${token} `),
);

/**
 * MNIST from a folder of its IDX files, plain or .gz: the last 5,000 of the 60,000 training images are the validation
 * split, the 10,000 test images the test split.
 * @throws MemformerError `DATA` for a missing file, or one that differs from the published one.
 */
export async function openMnist(spec: string, folder: string): Promise<Dataset> {
  const { train, test } = await mnistImages(folder);
  const split = train.documents - validImages;
  return new Dataset(
    spec,
    pixels,
    {
      train: documentRange(train, 0, split),
      valid: documentRange(train, split, train.documents),
      test,
    },
    [`images have the published MD5s; the last ${validImages} training images are held out`],
  );
}

/** All 60,000 training images and the 10,000 test images of such a folder. @throws MemformerError as `openMnist`. */
export async function mnistImages(
  folder: string,
): Promise<{ readonly train: TokenSource; readonly test: TokenSource }> {
  return {
    train: await images(folder, "train-images-idx3-ubyte"),
    test: await images(folder, "t10k-images-idx3-ubyte"),
  };
}

async function images(folder: string, name: keyof typeof published): Promise<TokenSource> {
  const present = await readdir(folder).catch((cause: unknown) => {
    throw new MemformerError("IO", `${folder} cannot be read: ${(cause as Error).message}`, { cause });
  });
  const found = [name, `${name}.gz`].find((candidate) => present.includes(candidate));
  if (!found)
    throw new MemformerError("DATA", `${folder} holds no ${name} or ${name}.gz, the images of MNIST.`, {
      details: { path: folder },
    });
  const path = join(folder, found);
  const file = await readWhole(path);
  const digest = createHash("md5").update(file).digest("hex");
  if (digest !== published[name]) {
    const expected = published[name];
    throw new MemformerError(
      "DATA",
      `${path} is not the published file: its MD5 unpacked is ${digest}, not ${expected}.`,
      { details: { path, expected, found: digest } },
    );
  }
  return imageSource(parseIdx(path, file));
}

/** Images (N, rows, columns) as N documents. */
export function imageSource({ shape, data }: IdxArray): TokenSource {
  const [count, rows, columns] = shape;
  if (shape.length !== 3)
    throw new MemformerError("DATA", `Images have three axes (number, rows, columns), not ${shape.length}.`);
  const size = rows! * columns!;
  return tokensInMemory(
    Array.from({ length: count! }, (_, i) => ({
      tokens: data.subarray(i * size, (i + 1) * size),
      bytes: size,
    })),
    pixels,
  );
}
