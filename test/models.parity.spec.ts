/** The whole model against its PyTorch peer (bench/peers) and the code of docs/checkpoint.md, on the same weights. */
import { expect } from "chai";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openSafetensors, tensorEntry, writeSafetensors } from "../lib/checkpoint/safetensors.ts";
import { bptt, disposeSegment, type CreateOptions, type Segment } from "../lib/index.ts";
import {
  memformers,
  numbers,
  perturb,
  positions,
  randomWindow,
  takeGradients,
  tinyModel,
  writers,
} from "./support/models.ts";
import { python, runPython } from "./support/python.ts";

const peers = fileURLToPath(new URL("../bench/peers", import.meta.url));

/** The other value of every option that lucidrains' port needs. */
const ported = {
  writerHeads: 4,
  writerSteps: 2,
  writerBias: true,
  memoryNorm: false,
  positionBuckets: "lucidrains",
  outputBias: true,
} as const;

/**
 * Every architecture, writer and position; forgettings and tied embeddings take turns. With T5's positions also as
 * ported.
 */
const models = memformers
  .filter((architecture) => architecture !== "cached-decoder") // the PyTorch program has no cache; test/models.baselines.spec.ts has
  .flatMap((architecture, v) =>
    writers.flatMap((writer, w) =>
      positions.map((position, p): CreateOptions & { T: number } => ({
        architecture,
        writer,
        position,
        forgetting: (["bmn", "normalize-only", "none"] as const)[(v + w + p) % 3]!,
        tieEmbedding: (v + w + p) % 2 === 0,
        // T5's buckets grow wider from a distance of 8 and 16 on; T below `segmentLength` is the middle of a relative
        // table.
        segmentLength: position === "t5" ? 70 : 8,
        T: position === "t5" ? 70 : 6,
      })),
    ),
  )
  .flatMap((model) =>
    model.position !== "t5"
      ? [model]
      : [
          model,
          {
            ...model,
            ...ported,
            tieEmbedding: !model.tieEmbedding,
            shareEmbedding: model.architecture !== "encoder-decoder",
          },
        ],
  );

/** For every folder: the peer's results into peer.safetensors, the page's into page.safetensors; its table checked. */
const script = `
import sys
sys.path.insert(0, ${JSON.stringify(peers)})
import torch
import parity
from checkpoint_page import disagreements, namespace
from config import Config
from safetensors_io import read_safetensors, write_safetensors
torch.set_default_dtype(torch.float64)
for folder in sys.argv[1:]:
    files = {"config": "/model/config.json", "weights": "/model/model.safetensors", "batch": "/batch.safetensors"}
    files = {name: folder + path for name, path in files.items()}
    options = [word for name, path in files.items() for word in ("--" + name, path)]
    sys.argv = ["parity.py", *options, "--out", folder + "/peer.safetensors"]
    parity.main()
    w, window = read_safetensors(files["weights"]), read_safetensors(files["batch"])
    config, memory, losses = Config.read(files["config"]), None, []
    for problem in disagreements(config, {name: tuple(tensor.shape) for name, tensor in w.items()}):
        print("PAGE", folder, problem)
    for source, target, reset in zip(window["source"].long(), window["target"].long(), window["reset"].bool()):
        loss, memory = namespace()["forward"](w, vars(config), source, target, reset, memory)
        losses.append(loss)
    write_safetensors(folder + "/page.safetensors", {"losses": torch.stack(losses), "memory": memory})
`;

describe("the model computes what its PyTorch peer computes", function () {
  this.timeout(600_000);
  let folder: string, ours: Map<string, Float64Array>[], said: string;
  const place = (i: number): string => join(folder, String(i));

  before(async function () {
    if ((await runPython(["-c", "import torch"])).code !== 0) {
      console.log(`    skipped: ${python} cannot import torch; MEMFORMER_PYTHON may name a python that can`);
      return this.skip();
    }
    folder = await mkdtemp(join(tmpdir(), "memformer-parity-"));
    ours = [];
    for (const [i, options] of models.entries()) ours.push(await windowOf(place(i), options));
    const run = await runPython(["-", ...models.map((_, i) => place(i))], script);
    if (run.code !== 0) throw new Error(`${python} ended with ${run.code}: ${run.said}`);
    said = run.said;
  });

  after(async () => {
    if (folder !== undefined) await rm(folder, { recursive: true });
  });

  for (const [i, { architecture, writer, position, forgetting, tieEmbedding, outputBias, T }] of models.entries()) {
    const name = `${architecture}, ${writer}, ${position}, ${forgetting}, ${tieEmbedding ? "tied" : "untied"}, T ${T}${outputBias === true ? ", as ported" : ""}`;

    it(`losses, last memory and every gradient: ${name}`, async () => {
      const theirs = await readAll(join(place(i), "peer.safetensors"));
      expect([...theirs.keys()].sort()).to.deep.equal([...ours[i]!.keys()].sort());
      for (const [tensor, values] of theirs) {
        // What all keys share changes no softmax: this gradient is rounding alone, on both sides.
        if (tensor === "grad.writer.key.bias")
          expect(Math.hypot(...values, ...ours[i]!.get(tensor)!), tensor).to.be.below(1e-9);
        else expect(errorOf(ours[i]!.get(tensor)!, values), tensor).to.be.below(1e-9);
      }
    });

    it(`losses, last memory and list of tensors by docs/checkpoint.md: ${name}`, async () => {
      for (const [tensor, values] of await readAll(join(place(i), "page.safetensors"))) {
        expect(errorOf(ours[i]!.get(tensor)!, values), tensor).to.be.below(1e-9);
      }
      expect(said.split("\n").filter((line) => line.startsWith(`PAGE ${place(i)} `))).to.deep.equal([]);
    });
  }
});

/** Writes a model and a window into `folder`; what BPTT makes of them, under the names that parity.py gives. */
async function windowOf(
  folder: string,
  { T, ...options }: CreateOptions & { T: number },
): Promise<Map<string, Float64Array>> {
  await using model = await tinyModel(options);
  await perturb(model);
  await model.save(join(folder, "model"));
  const window = randomWindow(model).map((segment, t) => shortened(segment, T, t === 0));
  await writeWindow(join(folder, "batch.safetensors"), window);
  const uploaded = window.map((segment) => model.upload(segment));
  // The peer's loss is the mean of its segments' losses.
  const { losses, state } = bptt(model, uploaded, model.initialState(window[0]!.batch), {
    training: false,
    weights: "segments",
  });
  const found = new Map<string, Float64Array>([
    ["losses", Float64Array.from((await numbers(losses)).flat())],
    ["memory", Float64Array.from((await numbers(state)).flat())],
  ]);
  for (const [name, gradient] of await takeGradients(model)) found.set(`grad.${name}`, gradient);
  uploaded.forEach(disposeSegment);
  return found;
}

/** The first T tokens of every row; at the window's start every row begins a document, as the peer has it. */
function shortened(segment: Segment, T: number, first: boolean): Segment {
  const cut = (tokens: Int32Array): Int32Array => tokens.filter((_, i) => i % segment.length < T);
  const reset = first ? new Uint8Array(segment.batch).fill(1) : segment.reset;
  return { ...segment, length: T, source: cut(segment.source), target: cut(segment.target), reset };
}

async function writeWindow(path: string, window: readonly Segment[]): Promise<void> {
  const [S, B, T] = [window.length, window[0]!.batch, window[0]!.length];
  const joined = (key: "source" | "target" | "reset"): Uint8Array =>
    Buffer.concat(window.map(({ [key]: array }) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)));
  await writeSafetensors(path, [
    tensorEntry("source", { dtype: "int32", shape: [S, B, T], data: joined("source") }),
    tensorEntry("target", { dtype: "int32", shape: [S, B, T], data: joined("target") }),
    tensorEntry("reset", { dtype: "uint8", shape: [S, B], data: joined("reset") }),
  ]);
}

async function readAll(path: string): Promise<Map<string, Float64Array>> {
  await using file = await openSafetensors(path);
  const tensors = new Map<string, Float64Array>();
  for (const [name, { data }] of await file.readAll()) tensors.set(name, new Float64Array(data.buffer as ArrayBuffer));
  return tensors;
}

/** |found - expected| / |expected|. */
function errorOf(found: Float64Array, expected: Float64Array): number {
  const norm = (values: Float64Array): number => Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0));
  if (found.length !== expected.length) return Infinity;
  return norm(found.map((value, i) => value - expected[i]!)) / norm(expected);
}
