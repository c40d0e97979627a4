/** Digits that a model draws pixel by pixel, and the second half of those whose first half it is given. */
import { Random, type TokenSource } from "../data/index.ts";
import { PADDING } from "../data/segment.ts";
import type { Tensor } from "../engine/tensor.ts";
import type { Memformer } from "../model/memformer.ts";
import type { State } from "../model/recurrence.ts";
import { disposeSegment } from "../model/segment-tensors.ts";
import { gridPng } from "./report/png.ts";

/** PNGs in base64. */
export interface Pictures {
  readonly digits: string;
  /** Of each line: an image of the test, its first half, and three ways in which the model goes on. */
  readonly completions: string;
}

const COMPLETIONS = 3;

/** `count` digits, and completions of as many test images as that fills lines of five. */
export async function pictures(
  model: Memformer,
  test: TokenSource,
  count: number,
  seed: number,
  signal: AbortSignal | undefined,
): Promise<Pictures> {
  const pixels = test.documentLength(0),
    side = Math.sqrt(pixels),
    random = new Random(seed, 1);
  const drawn = await drawnImages(model, new Array<Uint8Array>(count).fill(new Uint8Array(0)), pixels, random, signal);
  const originals = await Promise.all(
    Array.from({ length: Math.ceil(count / COMPLETIONS) }, async (_, i) =>
      Uint8Array.from(await test.read(i % test.documents, 0, pixels)),
    ),
  );
  const halves = originals.map((image) => image.subarray(0, pixels >> 1));
  const completed = await drawnImages(
    model,
    halves.flatMap((half) => new Array<Uint8Array>(COMPLETIONS).fill(half)),
    pixels,
    random,
    signal,
  );
  const lines = originals.flatMap((image, i) => {
    const half = new Uint8Array(pixels).fill(128);
    half.set(halves[i]!);
    return [image, half, ...completed.slice(i * COMPLETIONS, (i + 1) * COMPLETIONS)];
  });
  const png = (images: Uint8Array[], columns: number): string =>
    gridPng({ images, side, columns, scale: 3 }).toString("base64");
  return { digits: png(drawn, Math.ceil(Math.sqrt(count))), completions: png(lines, 2 + COMPLETIONS) };
}

/**
 * Images that begin with what is given of each, all of one length, and go on with pixels drawn from the model's
 * distribution. Rejects with the signal's reason.
 */
export async function drawnImages(
  model: Memformer,
  given: readonly Uint8Array[],
  pixels: number,
  random: Random,
  signal?: AbortSignal,
): Promise<Uint8Array[]> {
  const { segmentLength: T, bos } = model.config,
    rows = given.length,
    slots = given.map((_, row) => row),
    images = given.map((start) => {
      const image = new Uint8Array(pixels);
      image.set(start);
      return image;
    });
  let state: State = model.initialState(rows),
    from = given[0]!.length;
  using decoder = model.decoder(rows);
  try {
    for (let start = 0; start < pixels; start += T) {
      const end = Math.min(start + T, pixels);
      const segment = (): Parameters<Memformer["upload"]>[0] => {
        const source = new Int32Array(rows * T).fill(PADDING),
          target = new Int32Array(rows * T).fill(PADDING);
        images.forEach((image, row) => {
          if (start === 0) source[row * T] = bos;
          else source.set(image.subarray(start - T, start), row * T);
          target.set(image.subarray(start, end), row * T);
        });
        return { batch: rows, length: T, source, target, reset: new Uint8Array(rows).fill(start === 0 ? 1 : 0) };
      };
      if (from < end) {
        const open = model.upload(segment());
        let logits: Tensor = decoder.begin(open, state, slots);
        for (let at = start; at < end; at++) {
          signal?.throwIfAborted();
          if (at >= from) {
            const values = (await logits.data()) as Float32Array;
            for (const row of slots) images[row]![at] = draw(values.subarray(row * model.config.vocabulary), random);
          }
          logits.dispose();
          if (at + 1 < end)
            logits = decoder.step(
              images.map((image) => image[at]!),
              slots,
            );
        }
        disposeSegment(open);
      }
      // The segment that is now whole goes the way of every text.
      const whole = model.upload(segment()),
        next = model.advance(whole, state);
      disposeSegment(whole);
      for (const tensor of state) tensor.dispose();
      state = next;
      from = Math.max(from, end);
    }
    return images;
  } finally {
    for (const tensor of state) tensor.dispose();
  }
}

/** One of 256 shades by its probability. */
function draw(logits: Float32Array, random: Random): number {
  const shades = logits.subarray(0, 256),
    most = shades.reduce((a, b) => Math.max(a, b), -Infinity),
    weights = Float64Array.from(shades, (value) => Math.exp(value - most));
  let left = (random.next() / 2 ** 32) * weights.reduce((sum, weight) => sum + weight, 0);
  for (let shade = 0; shade < 255; shade++) {
    left -= weights[shade]!;
    if (left < 0) return shade;
  }
  return 255;
}
