/**
 * Imported models against a reading of lucidrains' own in PyTorch (test/support/lucidrains.py), on the same weights.
 */
import { expect } from "chai";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openSafetensors } from "../lib/checkpoint/safetensors.ts";
import { importLucidrains, Memformer } from "../lib/index.ts";
import { computed, errorOf, scored, type Window } from "./support/lucidrains.ts";
import { python, runPython } from "./support/python.ts";

const reference = fileURLToPath(new URL("support/lucidrains.py", import.meta.url));
const safetensors = fileURLToPath(new URL("../bench/peers", import.meta.url));

interface Case {
  readonly what: string;
  readonly dtype: "float64" | "float32";
  readonly layers: readonly [encoder: number, decoder: number];
  readonly H: number;
  readonly T: number;
  readonly writerHeads: number;
  readonly writerSteps: number;
  readonly padded: boolean;
  /** Deviation of the weights; 0.15 is what PyTorch starts matrices of width 16 with. */
  readonly spread: number;
  /** Default: every segment's loss counts the same. */
  readonly weights?: readonly number[];
}

type Numbers = Map<string, Float64Array>;

const evenly = [0.25, 0.25, 0.25, 0.25];
const base = { layers: [2, 2], H: 2, T: 6, writerHeads: 8, writerSteps: 1, padded: false } as const;
const cases: readonly Case[] = (
  [
    ["float64", 0.3],
    ["float32", 0.15],
  ] as const
).flatMap(([dtype, spread]): Case[] => [
  { ...base, dtype, spread, what: "two layers a stack" },
  {
    ...base,
    dtype,
    spread,
    what: "padding, other numbers of heads and layers, two steps of the writer",
    layers: [1, 2],
    H: 4,
    writerHeads: 2,
    writerSteps: 2,
    padded: true,
  },
  // Buckets grow wider from distances of 8 and 16 on, and end at 128.
  { ...base, dtype, spread, what: "distances in every bucket", layers: [1, 1], T: 140 },
  { ...base, dtype, spread, what: "a loss on the last segment alone, as their mrbp has it", weights: [0, 0, 0, 1] },
  { ...base, dtype, spread, what: "encoder_only", layers: [2, 0], writerSteps: 2 },
]);

/** Weights with which rounding grows from segment to segment: one draw of the error says little, so there are many. */
const growing = Array.from({ length: 16 }, (): Case => ({ ...base, dtype: "float32", spread: 0.3, what: "growing" }));
const all = [...cases, ...growing];

describe("an imported model computes what lucidrains' own does", function () {
  this.timeout(600_000);
  let folder: string;
  const place = (i: number, ...names: string[]): string => join(folder, String(i), ...names);

  before(async function () {
    if ((await runPython(["-c", "import torch"])).code !== 0) {
      console.log(`    skipped: ${python} cannot import torch; MEMFORMER_PYTHON may name a python that can`);
      return this.skip();
    }
    folder = await mkdtemp(join(tmpdir(), "memformer-import-"));
    const given = all.map(
      ({ dtype, layers: [encoder, decoder], H, T, writerHeads, writerSteps, padded, spread, weights }, i) => ({
        folder: place(i),
        seed: i,
        dtype,
        spread,
        sizes: { V: 13, D: 16, H, M: 3, encoder_layers: encoder, decoder_layers: decoder },
        window: { S: 4, B: 2, T, padded },
        how: { bos: 0, heads: writerHeads, steps: writerSteps, weights: weights ?? evenly },
      }),
    );
    for (const i of all.keys()) await mkdir(place(i));
    const run = await runPython([reference, safetensors], JSON.stringify(given));
    if (run.code !== 0) throw new Error(`${python} ended with ${run.code}: ${run.said}`);
  });

  after(async () => {
    if (folder !== undefined) await rm(folder, { recursive: true });
  });

  /** Ours, and theirs in the checkpoint's dtype and in float64. */
  const results = async (i: number): Promise<[ours: Numbers, theirs: Numbers, exact: Numbers]> => {
    const { T, layers, writerHeads, writerSteps, weights = evenly } = all[i]!;
    await importLucidrains(place(i, "checkpoint.pt"), place(i, "model"), {
      segmentLength: T,
      writerHeads,
      writerSteps,
    });
    await using model = await Memformer.load(place(i, "model"), { device: "cpu" });
    const window: Window = { ...(await readWindow(place(i, "window.safetensors"))), weights };
    const [ours, theirs, exact] = [
      await computed(model, window),
      await readAll(place(i, "expected.safetensors")),
      await readAll(place(i, "exact.safetensors")),
    ];
    for (const part of [ours, theirs, exact]) part.set("outputs", scored(part.get("outputs")!, window, layers[1] > 0));
    return [ours, theirs, exact];
  };

  for (const [i, { what, dtype, layers }] of cases.entries()) {
    it(`losses, ${layers[1] === 0 ? "hidden states" : "logits"}, last memory and every gradient, ${dtype}: ${what}`, async () => {
      const [ours, theirs] = await results(i);
      expect([...ours.keys()].sort()).to.deep.equal([...theirs.keys()].sort());
      for (const [name, error] of errorsOf(ours, theirs))
        expect(error, name).to.be.below(dtype === "float64" ? 1e-10 : 1e-5);
    });
  }

  it("in float32 as near to float64 as theirs, where rounding grows: at most twice the error, in the geometric mean of 16 models", async () => {
    let sum = 0;
    for (const n of growing.keys()) {
      const [ours, theirs, exact] = await results(cases.length + n);
      const worst = (found: Numbers): number => Math.max(...errorsOf(found, exact).map(([, error]) => error));
      sum += Math.log(worst(ours) / worst(theirs));
    }
    expect(Math.exp(sum / growing.length)).to.be.below(2);
  });
});

function errorsOf(found: Numbers, expected: Numbers): [name: string, error: number][] {
  return [...expected].map(([name, values]) => [name, errorOf(found.get(name), values)]);
}

async function readAll(path: string): Promise<Numbers> {
  await using file = await openSafetensors(path);
  const tensors = new Map<string, Float64Array>();
  for (const [name, { dtype, data }] of await file.readAll()) {
    const buffer = data.buffer as ArrayBuffer;
    tensors.set(
      name,
      Float64Array.from(
        dtype === "float64"
          ? new Float64Array(buffer)
          : dtype === "float32"
            ? new Float32Array(buffer)
            : new Int32Array(buffer),
      ),
    );
  }
  return tensors;
}

async function readWindow(path: string): Promise<Pick<Window, "source" | "target">> {
  await using file = await openSafetensors(path);
  const [S, B, T] = file.entry("source").shape as [number, number, number],
    flat = await readAll(path);
  const nested = (values: Float64Array): number[][][] =>
    Array.from({ length: S }, (_, s) =>
      Array.from({ length: B }, (_, b) => Array.from(values.subarray((s * B + b) * T, (s * B + b + 1) * T))),
    );
  return { source: nested(flat.get("source")!), target: nested(flat.get("target")!) };
}
