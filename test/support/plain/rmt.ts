/** The Recurrent Memory Transformer in plain loops, with rotary positions. */
import { inputs, layersOf, lossesOf, plus, row, surprise, type PlainModel, type Vector } from "./parts.ts";

export const plainRmt: PlainModel = (w, config, window) => {
  const { width: D, heads: H, decoderLayers: L, memorySlots: M, bos } = config;
  const { linear, norm, rmsIf, dot, read: readAll, feedForward } = layersOf(w, config),
    embedding = w.get("embedding.weight")!,
    E = D / H;
  const rotated = (x: Vector, place: number): Vector =>
    x.map((value, i) => {
      const e = i % E,
        half = E / 2,
        angle = place / 10000 ** ((2 * (e % half)) / E);
      return e < half
        ? value * Math.cos(angle) - x[i + half]! * Math.sin(angle)
        : value * Math.cos(angle) + x[i - half]! * Math.sin(angle);
    });
  const first = (): Vector[] => Array.from({ length: M }, (_, m) => row(w.get("memory.initial")!, m, D));
  const memory = Array.from({ length: window[0]!.batch }, first);
  const losses = lossesOf(window, (segment, b) => {
    if (segment.reset[b] !== 0) memory[b] = first();
    const { read, wanted } = inputs(segment, b, bos);
    const there = read.map((token, t) => ({ token, wanted: wanted[t]! })).filter((one) => one.wanted >= 0);
    if (there.length === 0) return 0; // padding alone leaves the memory as it is
    let x = [
      ...memory[b]!,
      ...there.map(({ token }) => row(embedding, token < 0 ? 0 : token, D)),
      ...memory[b]!, // read before the tokens, written behind them
    ];
    const end = M + there.length;
    for (let layer = 0; layer < L; layer++) {
      const name = `decoder.${layer}.self_attention`;
      const all = x.map((input, i) => {
        const qkv = linear(`${name}.qkv`, norm(`${name}.norm`, input));
        return {
          q: rotated(rmsIf(qkv.slice(0, D)), i),
          k: rotated(rmsIf(qkv.slice(D, 2 * D)), i),
          v: qkv.slice(2 * D),
        };
      });
      x = x.map((input, i) => {
        const seen = all.slice(0, i < M ? M : i < end ? i + 1 : undefined);
        const sum = readAll(
          seen.map(({ v }) => v),
          (h, k) => dot(all[i]!.q, seen[k]!.k, h),
        );
        return feedForward(`decoder.${layer}.feed_forward`, plus(input, linear(`${name}.out`, sum)));
      });
    }
    const hidden = x.map((one) => norm("decoder.norm", one));
    memory[b] = hidden.slice(end);
    return there.reduce((sum, { wanted: token }, t) => sum + surprise(embedding, hidden[M + t]!, token), 0);
  });
  return { losses, state: [memory.flatMap((slots) => slots.flatMap((slot) => [...slot]))] };
};
