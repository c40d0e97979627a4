/** The Compressive Transformer in plain loops. */
import { inputs, layersOf, lossesOf, plus, times, type PlainModel, type Vector } from "./parts.ts";
import { relativeSegment, rightAligned, type Kept } from "./transformer-xl.ts";

interface Before {
  readonly cache: readonly Kept[];
  readonly compressed: readonly Kept[];
}

export const plainCompressiveTransformer: PlainModel = (w, config, window, fixed) => {
  const { width: D, decoderLayers: L, cacheLength: C, compressionRate: rate, compressedLength: K, bos } = config;
  const { linear, norm, rmsIf, dot, read: readAll } = layersOf(w, config);
  const memory: Before[] = Array.from({ length: window[0]!.batch }, () => ({ cache: [], compressed: [] }));
  const met: Before[][] = window.map(() => []);
  const errors = window.map(() => 0);

  /** What h reads of other inputs of a layer, by content alone. */
  const contentRead = (layer: number, h: Vector, others: readonly Vector[]): Vector => {
    const name = `decoder.${layer}.self_attention`,
      q = rmsIf(linear(`${name}.query`, norm(`${name}.norm`, h)));
    const both = others.map((other) => linear(`${name}.key_value`, norm(`${name}.norm`, other)));
    return readAll(
      both.map((one) => one.slice(D)),
      (head, k) => dot(q, rmsIf(both[k]!.slice(0, D)), head),
    );
  };

  const losses = lossesOf(window, (segment, b) => {
    if (segment.reset[b] !== 0) memory[b] = { cache: [], compressed: [] };
    const tokens = inputs(segment, b, bos),
      place = window.indexOf(segment),
      before = (fixed as Before[][] | undefined)?.[place]![b] ?? memory[b]!;
    met[place]!.push(before);
    const { cost, kept } = relativeSegment(w, config, tokens, [...before.compressed, ...before.cache]);
    const own = kept.filter((_, t) => tokens.wanted[t]! >= 0),
      all = [...before.cache, ...own];
    const groups = Math.floor(Math.max(0, all.length - C) / rate),
      left = all.slice(0, groups * rate);
    const made = Array.from({ length: groups }, (_, g): Kept =>
      Array.from({ length: L }, (_, layer) => {
        const name = `decoder.${layer}.compression`,
          joined = left.slice(g * rate, (g + 1) * rate).flatMap((token) => [...token[layer]!]);
        return plus(times(w.get(`${name}.weight`)!, Float64Array.from(joined)), w.get(`${name}.bias`)!);
      }),
    );
    if (groups > 0)
      for (let layer = 0; layer < L; layer++)
        for (const token of own) {
          const [wanted, found] = [left, made].map((others) =>
            contentRead(
              layer,
              token[layer]!,
              others.map((other) => other[layer]!),
            ),
          );
          errors[place]! += found!.reduce((sum, value, i) => sum + (value - wanted![i]!) ** 2, 0) / D;
        }
    memory[b] = { cache: all.slice(groups * rate), compressed: [...before.compressed, ...made].slice(-K) };
    return cost;
  });
  const scored = window.map(({ target }) => Math.max(1, target.filter((token) => token >= 0).length));
  const part = (name: keyof Before, places: number): number[][] => [
    rightAligned(
      memory.map((row) => row[name]),
      L,
      places,
      D,
    ),
    memory.map((row) => row[name].length),
  ];
  return {
    losses,
    beside: { trains: ".compression.", losses: errors.map((sum, t) => sum / scored[t]!) },
    state: [...part("cache", C + rate - 1), ...part("compressed", K)],
    before: met,
  };
};
