/** The sizes of a model, read from the shapes of its tensors, and every tensor that does not fit them. */
import { MemformerError } from "../errors.ts";
import type { Axis, Layers, TensorSlice, Row } from "./lucidrains-tensors.ts";
import type { StoredTensor } from "./state-dict.ts";

/** By letter; a letter that no tensor tells is missing. */
export type Sizes = ReadonlyMap<string, number>;

type Tensors = ReadonlyMap<string, StoredTensor>;

const BUCKETS = 32;

/** How many layers there are names of. An index beyond a gap counts as one more, and then names a tensor too many. */
export function layersOf(names: Iterable<string>): Layers {
  const encoder = new Set<string>(),
    decoder = new Set<string>();
  let hasDecoder = false;
  for (const name of names) {
    hasDecoder ||= name.startsWith("decoder.");
    const [, stack, index] = /^(encoder|decoder\.net)\.layer_blocks\.layers\.(\d+)\./.exec(name) ?? [];
    if (index !== undefined) (stack === "encoder" ? encoder : decoder).add(index);
  }
  return { encoder: Math.max(1, encoder.size), decoder: hasDecoder ? Math.max(1, decoder.size) : 0 };
}

/** Each letter's size is the one that most tensors agree on, so that a wrong tensor is the one that is named. */
export function sizesOf(rows: readonly Row[], tensors: Tensors): Sizes {
  const votes = new Map<string, Map<number, number>>();
  for (const { name, shape } of theirsOf(rows)) {
    const found = tensors.get(name)?.shape;
    if (found?.length !== shape.length) continue;
    shape.forEach((axis, i) => {
      const { times, letter } = parsed(axis),
        size = found[i]! / times;
      const ballot = votes.get(letter) ?? new Map<number, number>();
      if (Number.isInteger(size)) votes.set(letter, ballot.set(size, (ballot.get(size) ?? 0) + 1));
    });
  }
  return new Map(
    [...votes]
      .filter(([letter]) => letter !== "B")
      .map(([letter, ballot]) => [letter, [...ballot].reduce((best, one) => (one[1] > best[1] ? one : best))[0]]),
  );
}

/**
 * Throws CHECKPOINT_MISMATCH with every tensor that is missing, too many, of a wrong shape or without floating point.
 */
export function expectAll(path: string, rows: readonly Row[], tensors: Tensors, sizes: Sizes): void {
  const wanted = theirsOf(rows),
    known = new Set(wanted.map(({ name }) => name));
  const missing = wanted.filter(({ name }) => !tensors.has(name)).map(({ name }) => name);
  const extra = [...tensors.keys()].filter((name) => !known.has(name));
  const wrong = wanted.flatMap(({ name, shape }) => {
    const tensor = tensors.get(name),
      expected = shape.map((axis) => sizeOf(axis, sizes));
    if (tensor === undefined) return [];
    const fits =
      tensor.shape.length === shape.length &&
      expected.every((size, i) => size === undefined || size === tensor.shape[i]);
    if (!fits)
      return [
        `"${name}" has shape [${tensor.shape.join(", ")}], expected [${expected.map((size) => size ?? "any").join(", ")}]`,
      ];
    return /^b?float/.test(tensor.dtype) ? [] : [`"${name}" holds ${tensor.dtype}, expected floating-point numbers`];
  });
  const sentences = [listed("it lacks", missing), listed("it holds too much:", extra), ...wrong].filter(
    (sentence) => sentence !== "",
  );
  if (sentences.length === 0) return;
  throw new MemformerError(
    "CHECKPOINT_MISMATCH",
    `${path} does not fit lucidrains' Memformer: ${sentences.join("; ")}`,
    {
      details: { path, missing, extra, wrong },
    },
  );
}

/** A tensor's shape, of which every letter is known. */
export function shapeOf(piece: TensorSlice, sizes: Sizes): number[] {
  const shape = piece.shape.map((axis) => sizeOf(axis, sizes)!);
  return piece.rows === undefined ? shape : [shape[0]! / 2, ...shape.slice(1)];
}

/** Their tensors, each once. */
function theirsOf(rows: readonly Row[]): TensorSlice[] {
  return [...new Map(rows.flatMap(({ from }) => from).map((piece) => [piece.name, piece])).values()];
}

function sizeOf(axis: Axis, sizes: Sizes): number | undefined {
  const { times, letter } = parsed(axis),
    size = sizes.get(letter);
  return letter === "B" ? BUCKETS : size === undefined ? undefined : times * size;
}

/** `3D` is 3 times D; `B32` are the buckets. */
function parsed(axis: Axis): { times: number; letter: string } {
  const [, times, letter] = /^(\d?)([A-Z])/.exec(axis) as unknown as [string, string, string];
  return { times: times === "" ? 1 : Number(times), letter };
}

function listed(what: string, names: readonly string[]): string {
  return names.length === 0 ? "" : `${what} ${names.map((name) => `"${name}"`).join(", ")}`;
}
