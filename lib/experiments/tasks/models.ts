/** The models that tasks of long context are given to: memories and their rivals, of equal width and depth. */
import type { TaskSettings } from "./train.ts";

export interface TaskModels {
  readonly shape: TaskSettings["model"] & { readonly width: number };
  readonly layers: readonly [encoder: number, decoder: number];
  readonly slots: readonly number[];
  readonly caches: readonly number[];
}

/** By name: Memformer and its decoder with each number of slots, its twin, Transformer-XL with each cache, LSTM. */
export function taskModels({ shape, layers: [encoderLayers, decoderLayers], slots, caches }: TaskModels): readonly {
  readonly name: string;
  readonly model: TaskSettings["model"];
}[] {
  const depth = encoderLayers + decoderLayers,
    own = { ...shape, encoderLayers, decoderLayers };
  return [
    ...slots.map((memorySlots) => ({ name: `Memformer, M ${memorySlots}`, model: { ...own, memorySlots } })),
    ...slots.map((memorySlots) => ({
      name: `Memformer decoder, M ${memorySlots}`,
      model: { ...shape, architecture: "decoder", decoderLayers: depth, memorySlots },
    })),
    { name: "Memformer without memory", model: { ...own, memorySlots: slots[0]!, memory: false } },
    ...caches.map((cacheLength) => ({
      name: `Transformer-XL, cache ${cacheLength}`,
      model: { ...shape, architecture: "transformer-xl", decoderLayers: depth, cacheLength },
    })),
    { name: `LSTM, ${depth} layers`, model: { ...shape, architecture: "lstm", decoderLayers: depth } },
  ];
}
