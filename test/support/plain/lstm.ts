/** A stack of LSTM layers in plain loops. */
import { inputs, lossesOf, plus, row, sigmoid, surprise, times, type PlainModel, type Vector } from "./parts.ts";

export const plainLstm: PlainModel = (w, { width: D, decoderLayers: L, bos }, window) => {
  const embedding = w.get("embedding.weight")!;
  const zeros = (): Vector[] => Array.from({ length: L }, () => new Float64Array(D));
  const h = Array.from({ length: window[0]!.batch }, zeros),
    c = Array.from({ length: window[0]!.batch }, zeros);
  const losses = lossesOf(window, (segment, b) => {
    if (segment.reset[b] !== 0) [h[b], c[b]] = [zeros(), zeros()];
    const { read, wanted } = inputs(segment, b, bos);
    let sum = 0;
    read.forEach((token, t) => {
      if (wanted[t]! < 0) return; // padding moves nothing
      let x = row(embedding, token < 0 ? 0 : token, D); // padding before it counts as token 0
      for (let layer = 0; layer < L; layer++) {
        const gates = plus(
          plus(times(w.get(`lstm.${layer}.input.weight`)!, x), w.get(`lstm.${layer}.input.bias`)!),
          times(w.get(`lstm.${layer}.hidden.weight`)!, h[b]![layer]!),
        );
        const gate = (k: number, i: number): number => gates[k * D + i]!;
        c[b]![layer] = c[b]![layer]!.map(
          (value, i) => sigmoid(gate(1, i)) * value + sigmoid(gate(0, i)) * Math.tanh(gate(2, i)),
        );
        x = c[b]![layer]!.map((value, i) => sigmoid(gate(3, i)) * Math.tanh(value));
        h[b]![layer] = x;
      }
      sum += surprise(embedding, x, wanted[t]!);
    });
    return sum;
  });
  return { losses, state: [h, c].map((part) => part.flatMap((layers) => layers.flatMap((vector) => [...vector]))) };
};
