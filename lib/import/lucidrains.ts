/**
 * A checkpoint of lucidrains' `memformer` (PyTorch) as one of ours: the same function of the same weights, to which
 * docs/import.md says how it is held. Works without the native core.
 */
import { existsSync } from "node:fs";
import { z } from "zod";
import { ITEM_BYTES } from "../checkpoint/host-tensor.ts";
import { writeModelFolder } from "../checkpoint/model-files.ts";
import type { TensorEntry } from "../checkpoint/safetensors.ts";
import { widened, type WideType } from "../checkpoint/widen.ts";
import { modelConfig, plainOptions, type ModelConfig } from "../model/config.ts";
import { MemformerError } from "../errors.ts";
import { parseOptions } from "../options.ts";
import { rowsOf, type Layers, type TensorSlice, type Row } from "./lucidrains-tensors.ts";
import { expectAll, layersOf, shapeOf, sizesOf, type Sizes } from "./sizes.ts";
import { openStateDict, type StoredTensor } from "./state-dict.ts";

/** Options that cannot be read from the shapes; defaults are those of lucidrains' package or its README. */
export const importSchema = z.strictObject({
  segmentLength: z.int().positive().default(1024).describe("tokens of a segment: their enc_max_seq_len"),
  writerHeads: z.int().positive().default(8).describe("attention heads of the writer: their mem_update_attn_heads"),
  writerSteps: z
    .int()
    .positive()
    .default(1)
    .describe("how many times over a segment is written: their num_mem_updates"),
  bos: z.int().nonnegative().default(0).describe("the token that every target began with in training; they pad with 0"),
});

/** The same as a user gives them; an option left out has its default. */
export type ImportOptions = z.input<typeof importSchema>;

/** One tensor's way: `theirs` names what it is made of, rows one below the other. */
export interface ImportedTensor {
  readonly ours: string;
  readonly shape: readonly number[];
  readonly theirs: readonly string[];
}

/** The result of an import: the configuration, and where every tensor came from. */
export interface Imported {
  readonly config: ModelConfig;
  readonly tensors: readonly ImportedTensor[];
  /** Learned numbers in all. */
  readonly parameters: number;
}

/**
 * Reads a checkpoint and writes the folder `out` that {@link Memformer.load} reads, whole or not at all; without `out`
 * it only says what it would write. Throws MemformerError CHECKPOINT_FORMAT for a file that is no checkpoint or names
 * what no tensor needs, CHECKPOINT_MISMATCH with all tensors that are missing, too many or misshapen, CONFIG for
 * options that do not fit and an `out` that exists, IO.
 */
export async function importLucidrains(file: string, out?: string, options: ImportOptions = {}): Promise<Imported> {
  const given = parseOptions(importSchema, options, "import");
  if (out !== undefined && existsSync(out)) {
    throw new MemformerError("CONFIG", `import: out must not exist yet, but ${out} does`, {
      details: { out },
    });
  }
  await using dict = await openStateDict(file);
  const tensors = withoutPrefix(dict.tensors),
    layers = layersOf(tensors.keys()),
    rows = rowsOf(layers);
  const sizes = sizesOf(rows, tensors);
  expectAll(file, rows, tensors, sizes);
  const precision: WideType = [...tensors.values()].some(({ dtype }) => dtype === "float64") ? "float64" : "float32";
  const config = configOf(file, sizes, layers, given, precision);
  const described = rows.map(({ ours, from }): ImportedTensor => ({
    ours,
    shape: joinedShape(from, sizes),
    theirs: from.map(({ name, rows: half }) => (half === undefined ? name : `${name} (${half})`)),
  }));
  const parameters = described.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
  if (out !== undefined) {
    await writeModelFolder(out, { config, tensors: rows.map((row) => entryOf(row, tensors, sizes, precision)) });
  }
  return { config, tensors: described, parameters };
}

/** Wrappers put a word before every name (`module.`, `_orig_mod.`): what stands before one of these is taken off. */
const LANDMARKS = ["memory_slots", "encoder.token_emb.weight", "gru.weight_ih"];

function withoutPrefix(tensors: ReadonlyMap<string, StoredTensor>): ReadonlyMap<string, StoredTensor> {
  for (const landmark of LANDMARKS) {
    const name = [...tensors.keys()].find((one) => one === landmark || one.endsWith(`.${landmark}`));
    if (name === undefined) continue;
    const prefix = name.slice(0, -landmark.length);
    return new Map(
      [...tensors].map(([key, tensor]) => [key.startsWith(prefix) ? key.slice(prefix.length) : key, tensor]),
    );
  }
  return tensors;
}

function configOf(
  file: string,
  sizes: Sizes,
  layers: Layers,
  given: z.output<typeof importSchema>,
  precision: WideType,
): ModelConfig {
  const size = (letter: string): number => sizes.get(letter)!,
    hasDecoder = layers.decoder > 0;
  for (const [one, other, what] of [
    ["V", "W", "tokens in the vocabulary"],
    ["H", "K", "attention heads"],
  ] as const) {
    if (!hasDecoder || size(one) === size(other)) continue;
    throw new MemformerError(
      "CHECKPOINT_MISMATCH",
      `${file}: its encoder has ${size(one)} ${what}, its decoder ${size(other)}; memformer has one number for both`,
      { details: { path: file, encoder: size(one), decoder: size(other) } },
    );
  }
  return modelConfig({
    ...plainOptions,
    architecture: hasDecoder ? "encoder-decoder" : "encoder",
    vocabulary: size("V"),
    width: size("D"),
    heads: size("H"),
    feedForward: size("F"),
    memorySlots: size("M"),
    encoderLayers: layers.encoder,
    ...(hasDecoder ? { decoderLayers: layers.decoder } : {}),
    ...given,
    precision,
    writer: "gru",
    writerBias: true,
    writerTemperature: 1,
    forgetting: "none",
    memoryNorm: false,
    position: "t5",
    positionBuckets: "lucidrains",
    dropout: 0,
    // Without a decoder there is no output projection either; the tied one adds no tensor.
    shareEmbedding: !hasDecoder,
    tieEmbedding: !hasDecoder,
    outputBias: hasDecoder,
  });
}

function joinedShape(from: readonly TensorSlice[], sizes: Sizes): number[] {
  const shapes = from.map((piece) => shapeOf(piece, sizes));
  return [shapes.reduce((rows, [first]) => rows + first!, 0), ...shapes[0]!.slice(1)];
}

function entryOf(
  { ours, from }: Row,
  tensors: ReadonlyMap<string, StoredTensor>,
  sizes: Sizes,
  dtype: WideType,
): TensorEntry {
  return {
    name: ours,
    dtype,
    shape: joinedShape(from, sizes),
    async read() {
      const pieces: Uint8Array[] = [];
      for (const piece of from) {
        const whole = widened(await tensors.get(piece.name)!.read(), dtype);
        const bytes = shapeOf(piece, sizes).reduce((product, size) => product * size, ITEM_BYTES[dtype]);
        pieces.push(piece.rows === "second half" ? whole.subarray(bytes) : whole.subarray(0, bytes));
      }
      return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces);
    },
  };
}
