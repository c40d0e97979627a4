/** Gated DeltaNet in plain loops: the recurrence token by token, as the paper writes it. */
import { inputs, layersOf, lossesOf, plus, row, sigmoid, surprise, type PlainModel, type Vector } from "./parts.ts";

const WIDTH = 4;

/** What a row keeps of a layer. */
interface Carried {
  /** S of each head, (E, E): values by keys. */
  readonly S: number[][][];
  /** The last inputs of the convolution. */
  tail: Vector[];
}

export const plainGatedDelta: PlainModel = (w, config, window) => {
  const { width: D, heads: H, decoderLayers: L, bos } = config;
  const { linear, norm, rms, feedForward } = layersOf(w, config),
    embedding = w.get("embedding.weight")!,
    E = D / H;
  const silu = (x: number): number => x * sigmoid(x);
  const nothing = (): Carried[] =>
    Array.from({ length: L }, () => ({
      S: Array.from({ length: H }, () => Array.from({ length: E }, () => new Array<number>(E).fill(0))),
      tail: Array.from({ length: WIDTH - 1 }, () => new Float64Array(3 * D)),
    }));
  const state = Array.from({ length: window[0]!.batch }, nothing);

  /** One token's output, whose S and tail move on. */
  const mixed = (name: string, x: Vector, carried: Carried): Vector => {
    const read = [...carried.tail, linear(`${name}.qkv`, x)];
    carried.tail = read.slice(1);
    const convolution = w.get(`${name}.convolution.weight`)!;
    const qkv = Float64Array.from({ length: 3 * D }, (_, i) =>
      silu(read.reduce((sum, at, j) => sum + convolution[i * WIDTH + j]! * at[i]!, 0)),
    );
    const unit = (part: Vector): Vector => rms(part).map((value) => value / Math.sqrt(E));
    const [q, k, v] = [unit(qkv.slice(0, D)), unit(qkv.slice(D, 2 * D)), qkv.slice(2 * D)];
    const gates = linear(`${name}.gates`, x),
      o = new Float64Array(D);
    for (let h = 0; h < H; h++) {
      const a = Math.exp(-Math.exp(w.get(`${name}.decay`)![h]!) * Math.log1p(Math.exp(gates[h]!))),
        b = sigmoid(gates[H + h]!),
        S = carried.S[h]!,
        at = (part: Vector, e: number): number => part[h * E + e]!;
      for (let i = 0; i < E; i++) {
        const held = S[i]!.reduce((sum, s, j) => sum + s * at(k, j), 0);
        S[i] = S[i]!.map((s, j) => a * (s - b * held * at(k, j)) + b * at(v, i) * at(k, j));
        o[h * E + i] = S[i]!.reduce((sum, s, j) => sum + s * at(q, j), 0);
      }
    }
    const gate = linear(`${name}.output_gate`, x),
      scale = w.get(`${name}.output_norm.weight`)!;
    return linear(
      `${name}.out`,
      rms(o).map((value, i) => value * scale[i % E]! * silu(gate[i]!)),
    );
  };

  const losses = lossesOf(window, (segment, b) => {
    if (segment.reset[b] !== 0) state[b] = nothing();
    const { read, wanted } = inputs(segment, b, bos);
    let sum = 0;
    read.forEach((token, t) => {
      if (wanted[t]! < 0) return; // padding moves nothing
      let x = row(embedding, token < 0 ? 0 : token, D);
      for (let layer = 0; layer < L; layer++) {
        const name = `decoder.${layer}.delta_rule`;
        x = plus(x, mixed(name, norm(`${name}.norm`, x), state[b]![layer]!));
        x = feedForward(`decoder.${layer}.feed_forward`, x);
      }
      sum += surprise(embedding, norm("decoder.norm", x), wanted[t]!);
    });
    return sum;
  });
  return {
    losses,
    state: [
      state.flatMap((layers) => layers.flatMap(({ S }) => S.flat(2))),
      state.flatMap((layers) => layers.flatMap(({ tail }) => tail.flatMap((vector) => [...vector]))),
    ],
  };
};
