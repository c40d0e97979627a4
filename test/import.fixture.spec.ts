/**
 * Import without Python: a checkpoint of lucidrains' model that lies here, what it computes, and every misuse of the
 * command.
 */
import { expect } from "chai";
import { cp, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { tensorEntry, writeSafetensors } from "../lib/checkpoint/safetensors.ts";
import type { HostTensor } from "../lib/checkpoint/host-tensor.ts";
import { openStateDict } from "../lib/import/state-dict.ts";
import { importLucidrains, Memformer } from "../lib/index.ts";
import { computed, errorOf, scored, type Window } from "./support/lucidrains.ts";
import { Bench } from "./support/run-cli.ts";

const fixture = (name: string): string => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));
const options = { segmentLength: 5, writerHeads: 4, writerSteps: 2 } as const;

interface Expected {
  readonly how: { readonly weights: readonly number[] };
  readonly source: Window["source"];
  readonly target: Window["target"];
  readonly losses: readonly number[];
  readonly outputs: readonly unknown[];
  readonly memory: readonly unknown[];
  readonly gradients: Readonly<Record<string, readonly number[]>>;
}

describe("a checkpoint of lucidrains' model, imported", function () {
  let bench: Bench;
  let tensors: Map<string, HostTensor>;
  before(async () => {
    bench = new Bench();
    await using dict = await openStateDict(fixture("lucidrains.pt"));
    tensors = new Map();
    for (const [name, tensor] of dict.tensors) tensors.set(name.replace("module.", ""), await tensor.read());
  });
  after(() => {
    bench.remove();
  });

  /** The fixture's tensors with some changed or, where undefined, left out, as safetensors. */
  const variant = async (name: string, changes: Readonly<Record<string, HostTensor | undefined>>): Promise<string> => {
    const all = [...new Map<string, HostTensor | undefined>([...tensors, ...Object.entries(changes)])];
    await writeSafetensors(
      bench.path(name),
      all.flatMap(([key, tensor]) => (tensor === undefined ? [] : [tensorEntry(key, tensor)])),
    );
    return bench.path(name);
  };

  for (const [precision, tolerance] of [
    ["float64", 1e-10],
    ["float32", 1e-5],
  ] as const) {
    it(`computes the losses, logits, last memory and gradients that theirs does, in ${precision}`, async () => {
      const expected = JSON.parse(await readFile(fixture("lucidrains.json"), "utf8")) as Expected;
      const window: Window = { ...expected, weights: expected.how.weights },
        out = bench.path(`model-${precision}`);
      await importLucidrains(fixture("lucidrains.pt"), out, options);
      await using model = await Memformer.load(out, { device: "cpu", precision });
      const found = await computed(model, window),
        numbers = (values: readonly unknown[]): Float64Array => Float64Array.from(values.flat(3) as number[]);
      expect(errorOf(found.get("losses"), numbers(expected.losses)), "losses").to.be.below(tolerance);
      expect(errorOf(found.get("memory"), numbers(expected.memory)), "memory").to.be.below(tolerance);
      const [outputs, theirs] = [found.get("outputs")!, numbers(expected.outputs)].map((all) =>
        scored(all, window, true),
      );
      expect(errorOf(outputs, theirs!), "logits").to.be.below(tolerance);
      const gradients = [...found].filter(([name]) => name.startsWith("grad."));
      expect(gradients.map(([name]) => name.slice(5)).sort()).to.deep.equal(Object.keys(expected.gradients).sort());
      for (const [name, gradient] of gradients) {
        const [norm, ...sums] = expected.gradients[name.slice(5)]!;
        const here = [
          Math.hypot(...gradient),
          gradient.reduce((sum, g) => sum + g, 0),
          gradient.reduce((sum, g, i) => sum + g * Math.cos(i), 0),
        ];
        here.forEach((value, i) => {
          expect(Math.abs(value - [norm!, ...sums][i]!) / norm!, `${name}, number ${i}`).to.be.below(tolerance);
        });
      }
    });
  }

  it("by the command: a table to look at first, JSON, and a folder that memformer inspects", async () => {
    const flags = ["--segment-length", "5", "--writer-heads", "4", "--writer-steps", "2"];
    const dry = await bench.run(
      "import",
      fixture("lucidrains.pt"),
      "--out",
      bench.path("model"),
      ...flags,
      "--dry-run",
    );
    expect(dry.stderr).to.equal("");
    expect(dry.stdout).to.match(
      /^encoder\.0\.self_attention\.qkv\.weight +\(24, 8\) +encoder\.layer_blocks\.layers\.0\.0\.fn\.fn\.to_q\.weight \+ encoder\.layer_blocks\.layers\.0\.0\.fn\.fn\.to_kv\.weight$/m,
    );
    expect(dry.stdout)
      .to.match(/^ {2}positionBuckets {6}lucidrains\n/m)
      .and.match(/^ {2}forgettingBiasLeast {2}0\n/m)
      .and.match(/\n69 tensors, \d+ parameters\. Nothing was written\.\n$/);
    expect(await readdir(bench.folder)).not.to.include("model");

    const real = await bench.run("import", fixture("lucidrains.pt"), "--out", bench.path("model"), ...flags, "--json");
    const said = JSON.parse(real.stdout) as {
      out: string;
      parameters: number;
      tensors: { ours: string; shape: number[]; theirs: string[] }[];
    };
    expect(said.out).to.equal(bench.path("model"));
    expect(said.tensors.find(({ ours }) => ours === "writer.value.bias")).to.deep.equal({
      ours: "writer.value.bias",
      shape: [8],
      theirs: ["mem_updater.to_kv.bias (second half)"],
    });
    const inspected = JSON.parse((await bench.run("inspect", bench.path("model"), "--json")).stdout) as {
      total: { parameters: number };
    };
    expect(inspected.total.parameters).to.equal(said.parameters);
    expect((await readdir(bench.path("model"))).sort()).to.deep.equal(["config.json", "model.safetensors"]);
  });

  it("is the same from safetensors, and from halves but for what they cannot hold", async () => {
    const whole = await variant("whole.safetensors", {});
    expect((await importLucidrains(whole, bench.path("from-safetensors"), options)).config).to.deep.equal(
      (await importLucidrains(fixture("lucidrains.pt"), undefined, options)).config,
    );
    await importLucidrains(fixture("lucidrains.pt"), bench.path("from-pytorch"), options);
    const weights = async (folder: string): Promise<Buffer> => readFile(bench.path(folder, "model.safetensors"));
    expect((await weights("from-safetensors")).equals(await weights("from-pytorch"))).to.be.true;
    // 1.5 as bfloat16 is 1.5.
    const half = {
      dtype: "bfloat16",
      shape: [8],
      data: new Uint8Array(Uint16Array.from({ length: 8 }, () => 0x3fc0).buffer),
    } as const;
    await importLucidrains(
      await variant("half.safetensors", { "encoder.norm.weight": half }),
      bench.path("from-half"),
      options,
    );
    await using model = await Memformer.load(bench.path("from-half"), { device: "cpu" });
    using norm = model.parameter("encoder.norm.weight");
    expect([...(await norm.data())]).to.deep.equal(Array.from({ length: 8 }, () => 1.5));
  });

  it("keeps float64 where the checkpoint has it", async () => {
    const wide = {
      dtype: "float64",
      shape: [8],
      data: new Uint8Array(new Float64Array(8).fill(1 / 3).buffer),
    } as const;
    const { config } = await importLucidrains(
      await variant("wide.safetensors", { "encoder.norm.weight": wide }),
      bench.path("wide"),
      options,
    );
    expect(config.precision).to.equal("float64");
    await using model = await Memformer.load(bench.path("wide"), { device: "cpu" });
    using norm = model.parameter("encoder.norm.weight");
    expect((await norm.data())[0]).to.equal(1 / 3);
  });

  it("is refused with every tensor that is missing, too many or misshapen, at once", async () => {
    const floats = (...shape: number[]): HostTensor => ({
      dtype: "float32",
      shape,
      data: new Uint8Array(4 * shape.reduce((product, size) => product * size, 1)),
    });
    const broken = await variant("broken.safetensors", {
      "gru.bias_hh": undefined,
      "encoder.norm.weight": undefined,
      "encoder.extra": floats(1),
      "gru.weight_ih": floats(24, 9),
      memory_slots: floats(3),
      "mem_updater.to_q.bias": { dtype: "int64", shape: [8], data: new Uint8Array(64) },
    });
    const { code, stderr } = await bench.run("import", broken, "--out", bench.path("broken"));
    expect(code).to.equal(1);
    expect(stderr).to.equal(
      `memformer: ${broken} does not fit lucidrains' Memformer: it lacks "encoder.norm.weight", "gru.bias_hh"; ` +
        'it holds too much: "encoder.extra"; "memory_slots" has shape [3], expected [any, 8]; ' +
        '"mem_updater.to_q.bias" holds int64, expected floating-point numbers; "gru.weight_ih" has shape [24, 9], expected [24, 8]\n' +
        "ERR_MEMFORMER_CHECKPOINT_MISMATCH\n",
    );
    expect(await readdir(bench.folder)).not.to.include("broken");
  });

  it("is refused where encoder and decoder differ in what memformer has one number for", async () => {
    const changed = await variant("vocabularies.safetensors", {
      "encoder.token_emb.weight": { dtype: "float32", shape: [12, 8], data: new Uint8Array(384) },
    });
    expect((await bench.run("import", changed, "--dry-run")).stderr).to.match(
      /its encoder has 12 tokens in the vocabulary, its decoder 11; memformer has one number for both\nERR_MEMFORMER_CHECKPOINT_MISMATCH\n$/,
    );
    const heads = await variant("heads.safetensors", {
      "encoder.layer_blocks.rel_pos_emb.relative_attention_bias.weight": {
        dtype: "float32",
        shape: [32, 4],
        data: new Uint8Array(512),
      },
    });
    expect((await bench.run("import", heads, "--dry-run")).stderr).to.match(
      /its encoder has 4 attention heads, its decoder 2; /,
    );
  });

  it("is refused in a sentence for options that do not fit, a folder that exists, a file that is none", async () => {
    const file = fixture("lucidrains.pt");
    await mkdir(bench.path("taken"));
    await writeFile(bench.path("none.pt"), "nothing");
    await cp(file, bench.path("cut.pt"));
    await writeFile(bench.path("cut.pt"), (await readFile(file)).subarray(0, 9000));
    for (const [args, code, words] of [
      [[file], 2, /^memformer: name a folder with --out, or look first with --dry-run\nERR_MEMFORMER_CONFIG\n$/],
      [
        [file, "--out", bench.path("taken")],
        2,
        /^memformer: import: out must not exist yet, but .*taken does\nERR_MEMFORMER_CONFIG\n$/,
      ],
      [
        [file, "--out", bench.path("new"), "--writer-heads", "3"],
        2,
        /^memformer: model: writerHeads must divide width, got 3 heads and width 8\nERR_MEMFORMER_CONFIG\n$/,
      ],
      [
        [file, "--out", bench.path("new"), "--bos", "11"],
        2,
        /^memformer: model: bos must be below vocabulary 11, got 11\n/,
      ],
      [
        [file, "--out", bench.path("new"), "--segment-lenth", "3"],
        2,
        /^memformer: unknown option '--segment-lenth'\n\(Did you mean --segment-length\?\)\n$/,
      ],
      [
        [bench.path("none.pt"), "--out", bench.path("new")],
        1,
        /none\.pt is not a checkpoint: neither a PyTorch zip nor safetensors\nERR_MEMFORMER_CHECKPOINT_FORMAT\n$/,
      ],
      [
        [bench.path("cut.pt"), "--out", bench.path("new")],
        1,
        /cut\.pt: its zip is damaged \(truncated\?\): .*\nERR_MEMFORMER_CHECKPOINT_FORMAT\n$/,
      ],
    ] as const) {
      const outcome = await bench.run("import", ...args);
      expect(outcome.stderr).to.match(words);
      expect(outcome.code).to.equal(code);
    }
    expect(await readdir(bench.folder)).not.to.include("new");
    expect(await readdir(bench.path("taken"))).to.deep.equal([]);
  });
});
