import { expect } from "chai";
import { fileURLToPath } from "node:url";
import { cpuConfigurations, configurations } from "../bench/support/configurations.ts";
import { Memformer, presets, type PresetName } from "../lib/index.ts";
import { architectures } from "../lib/model/architectures/index.ts";
import { modelConfig } from "../lib/model/config.ts";
import { runSettings } from "../lib/run/settings.ts";
import { variants, writers } from "./support/models.ts";
import { failure } from "./support/failure.ts";

/** Matrix products: rows, inner size, columns. */
type Products = readonly (readonly [number, number, number])[];
const D = 8,
  F = 20,
  M = 3,
  T = 5,
  V = 11;
const config = (options: object): ReturnType<typeof modelConfig> =>
  modelConfig({
    width: D,
    heads: 2,
    feedForward: F,
    memorySlots: M,
    segmentLength: T,
    vocabulary: V,
    bos: 0,
    encoderLayers: 2,
    decoderLayers: 3,
    ...options,
  });

const self: Products = [
  [T, D, 3 * D],
  [T, D, D],
];
const everyPair: Products = [
  [T, D, T],
  [T, T, D],
];
const causalPair = 2 * ((T * (T + 1)) / 2) * D;
const read = (keys: number): Products => [
  [T, D, D],
  [keys, D, 2 * D],
  [T, D, keys],
  [T, keys, D],
  [T, D, D],
];
const feedForward = (rows: number): Products => [
  [rows, D, F],
  [rows, F, D],
];
const slots: Products = [
  [M, D, 2 * D],
  [T, D, 2 * D],
  [M, D, T],
  [M, T, D],
];
const gru: Products = [[M, D, D], [M, D, D], [M, D, 3 * D], [M, D, 3 * D], ...feedForward(M)];
const count = (...products: Products[]): number =>
  products.flat().reduce((sum, [rows, inner, columns]) => sum + rows * inner * columns, 0);

describe("what a model tells of its work and memory", () => {
  const writing = { "slot-attention": count(slots) + M * D, gru: count(slots, gru) + M * D };
  const stack = {
    "encoder-decoder": 2 * count(self, everyPair, read(M), feedForward(T)),
    encoder: 2 * count(self, everyPair, read(M), feedForward(T)),
    decoder: 3 * (count(self, read(M), feedForward(T)) + causalPair),
  };
  const beyond = {
    "encoder-decoder": 3 * (count(self, read(T), feedForward(T)) + causalPair),
    encoder: 0,
    decoder: 0,
  };
  for (const architecture of ["encoder-decoder", "encoder", "decoder"] as const) {
    for (const writer of writers) {
      it(`${architecture} with ${writer}: the products of a step, added up`, () => {
        const path = stack[architecture] + writing[writer];
        const whole = path + beyond[architecture] + T * D * V;
        expect(architectures[architecture].work(config({ architecture, writer }))).to.deep.equal({ path, whole });
      });
    }

    it(`${architecture}: activations grow with the layers that it has`, () => {
      const { activationBytes } = architectures[architecture],
        few = config({ architecture });
      const grows = (layers: object): boolean =>
        activationBytes(config({ architecture, ...layers }), 2, T) > activationBytes(few, 2, T);
      expect(grows({ encoderLayers: 9 }), "encoder").to.equal(architecture !== "decoder");
      expect(grows({ decoderLayers: 9 }), "decoder").to.equal(architecture !== "encoder");
    });
  }

  const C = 4,
    c = 2,
    K = 3,
    E = D / 2;
  const relative = (keys: number): number =>
    count(
      [
        [T, D, 2 * D], // queries, output
        [keys + T, D, 3 * D], // keys, values, distances
      ],
      feedForward(T),
    ) +
    3 * (T * keys + (T * (T + 1)) / 2) * D; // by content and by distance, sums
  const baselines = {
    "transformer-xl": { path: 3 * relative(C), beside: 0 },
    "compressive-transformer": {
      path: 3 * (relative(C + c - 1 + K) + T * D * D),
      beside: 3 * (2 * T * D * D + 2 * (T + T / c) * D * D + 2 * T * (T + T / c) * D),
    },
    rmt: {
      path:
        3 *
        (count([[T + 2 * M, D, 4 * D]], feedForward(T + 2 * M)) +
          2 * (M * M + T * M + M * (T + 2 * M)) * D +
          causalPair),
      beside: 0,
    },
    "gated-delta": {
      path:
        3 *
        (count([[T, D, 5 * D + 4]], feedForward(T)) + // projections, two gates of two heads
          2 *
            count([
              [T, E, E],
              [T, E, E],
              [T, E, E],
              [T, E, T],
              [T, T, E],
              [T, E, T],
              [T, T, E],
            ])),
      beside: 0,
    },
  };
  for (const [architecture, { path, beside }] of Object.entries(baselines))
    it(`${architecture}: the products of a step, added up`, () => {
      const sizes = config({ architecture, cacheLength: C, compressionRate: c, compressedLength: K });
      const whole = path + beside + T * D * V;
      expect(architectures[sizes.architecture].work(sizes)).to.deep.equal({ path, whole });
    });

  for (const architecture of variants) {
    it(`${architecture}: tells some of each, and a step is no less than its critical path`, () => {
      const few = config({ architecture }),
        { work, activationBytes, scoringBytes } = architectures[architecture];
      expect(work(few).path).to.be.above(0);
      expect(work(few).whole).to.be.at.least(work(few).path);
      for (const bytes of [activationBytes, scoringBytes])
        expect(bytes(few, 6, T)).to.be.closeTo(3 * bytes(few, 2, T), 1e-6);
    });

    it(`${architecture}: continues text where it says so`, async () => {
      await using model = await Memformer.create({ preset: "tiny", architecture, device: "cpu" });
      if (architectures[architecture].generates) return (await model.session()).dispose();
      const { code, message } = await failure(model.session().then((session) => session.generate().next()));
      expect(code).to.equal("ERR_MEMFORMER_CONFIG");
      expect(message).to.include('use "encoder-decoder" or "decoder"');
    });
  }
});

describe("presets", () => {
  for (const preset of Object.keys(presets) as PresetName[]) {
    it(`${preset} is a whole model`, () => {
      expect(modelConfig(presets[preset])).to.include(presets[preset]);
    });
  }

  it("are what the demos train and what benches measure", async () => {
    for (const [name, own] of [
      ["demo", {}],
      ["speeches", { architecture: "decoder", segmentLength: 16 }], // a memory pays early where segments are short
    ] as const) {
      const file = fileURLToPath(new URL(`../configs/${name}.json`, import.meta.url));
      const { run, model } = await runSettings(file, {}, false);
      expect(modelConfig({ ...presets[run.preset], ...model })).to.include({ ...presets.demo, ...own });
    }
    expect(cpuConfigurations.demo).to.include(presets.demo);
    expect(configurations["wiki"]).to.include(presets.wiki);
  });
});
