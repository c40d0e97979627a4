/**
 * What is measured beside what: models of equal depth, by the length of the context and by the size of what is kept.
 */
import type { ModelOptions } from "../../model/config.ts";
import type { Budget, Json } from "../experiment.ts";

/** Reading N tokens without a gradient, training on them by MRBP, or generating a segment behind them. */
export const works = ["read", "train", "generate"] as const;
export type Work = (typeof works)[number];

/** What grows: tokens of context, or slots of a memory beside tokens of a cache. */
export type Axis = "context" | "kept";

export interface CostSettings {
  readonly axis: Axis;
  readonly work: Work;
  /** The model's name in the report. */
  readonly name: string;
  readonly model: { readonly [option in keyof ModelOptions]?: Json };
  /** N, tokens read, trained on or generated behind; whole segments. */
  readonly context: number;
  /** Slots or tokens of the cache; null: the whole context is attended to. */
  readonly kept: number | null;
  readonly batch: number;
  readonly rounds: number;
  readonly device: "cpu" | "cuda";
}

interface Size {
  readonly shape: { readonly width: number; readonly heads: number; readonly feedForward: number };
  readonly layers: readonly [encoder: number, decoder: number];
  readonly segmentLength: number;
  readonly slots: number;
  readonly caches: readonly number[];
  readonly contexts: readonly number[];
  readonly kept: readonly number[];
  /** Of the axis of what is kept. */
  readonly context: number;
  readonly batch: number;
  readonly rounds: number;
}

/** Of WikiText-103 the paper gives layers, heads and widths; segments of 128 tokens and batches are ours. */
const paper = {
  shape: { width: 512, heads: 8, feedForward: 2048 },
  layers: [4, 12],
  segmentLength: 128,
  slots: 128,
  caches: [128, 512, 1600],
  context: 512,
  batch: 8,
} as const;
const sizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    shape: { width: 32, heads: 2, feedForward: 64 },
    layers: [1, 1],
    segmentLength: 16,
    slots: 8,
    caches: [64],
    contexts: [32, 64, 128],
    kept: [8, 64],
    context: 32,
    batch: 2,
    rounds: 2,
  },
  minutes: { ...paper, contexts: [512, 1024, 2048], kept: [64, 512, 1024], rounds: 5 },
  full: { ...paper, contexts: [512, 1024, 2048, 4096, 8192], kept: [64, 128, 256, 512, 1024, 2048], rounds: 20 },
};

export const MEMFORMER = "Memformer";
export const FULL = "full attention";

/** Of each work and size every model, so that a table's line is complete early. */
export function costPlan(budget: Budget, device: "cpu" | "cuda"): CostSettings[] {
  const size = sizes[budget],
    { contexts, kept, context, batch, rounds } = size;
  const common = { batch, rounds, device };
  return works.flatMap((work) => [
    ...contexts.flatMap((length) =>
      modelsOf(size, device, length).map((model) => ({
        axis: "context" as const,
        work,
        ...model,
        context: length,
        ...common,
      })),
    ),
    ...kept.flatMap((count) =>
      [memformer(size, device, count), xl(size, device, count)].map((model) => ({
        axis: "kept" as const,
        work,
        ...model,
        name: model.name.replace(/,.*/, ""),
        context,
        ...common,
      })),
    ),
  ]);
}

type Model = Pick<CostSettings, "name" | "model" | "kept">;

function modelsOf(size: Size, device: "cpu" | "cuda", length: number): Model[] {
  return [
    memformer(size, device, size.slots),
    ...size.caches.map((cache) => xl(size, device, cache)),
    // One segment as long as the context: causal attention to all of it, and nothing kept.
    {
      name: FULL,
      model: {
        ...shapeOf(size, device),
        architecture: "transformer-xl",
        memory: false,
        decoderLayers: depthOf(size),
        cacheLength: 1,
        segmentLength: length,
      },
      kept: null,
    },
  ];
}

function memformer(size: Size, device: "cpu" | "cuda", slots: number): Model {
  const [encoderLayers, decoderLayers] = size.layers;
  return {
    name: `${MEMFORMER}, ${slots} slots`,
    model: {
      ...shapeOf(size, device),
      encoderLayers,
      decoderLayers,
      memorySlots: slots,
      segmentLength: size.segmentLength,
    },
    kept: slots,
  };
}

function xl(size: Size, device: "cpu" | "cuda", cacheLength: number): Model {
  return {
    name: `Transformer-XL, cache ${cacheLength}`,
    model: {
      ...shapeOf(size, device),
      architecture: "transformer-xl",
      decoderLayers: depthOf(size),
      cacheLength,
      segmentLength: size.segmentLength,
    },
    kept: cacheLength,
  };
}

function shapeOf({ shape }: Size, device: "cpu" | "cuda"): Model["model"] {
  return { ...shape, precision: device === "cuda" ? "bfloat16" : "float32" };
}

function depthOf({ layers: [encoder, decoder] }: Size): number {
  return encoder + decoder;
}
