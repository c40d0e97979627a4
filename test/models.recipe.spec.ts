import { expect } from "chai";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bptt, Memformer, modelSchema, mrbp, plainOptions, Session, type Segment } from "../lib/index.ts";
import { horizonOf } from "../lib/train/horizon.ts";
import { trainSchema } from "../lib/train/config.ts";
import { runWindow } from "./support/run-window.ts";
import { memformers, perturb, recipeOptions, tinyModel } from "./support/models.ts";

describe("a twin, a model trained without its memory", () => {
  it("computes what its model does where every segment starts a document: losses, gradients, parameters", async () => {
    for (const architecture of memformers) {
      await using twin = await tinyModel({ architecture, memory: false });
      await using model = await tinyModel({ architecture });
      expect(twin.parameters).to.deep.equal(model.parameters);
      for (const one of [twin, model]) await perturb(one);
      for (const segmentsPerStep of [1, 3]) {
        const found = await runWindow(twin, mrbp, { segmentsPerStep });
        const expected = await runWindow(resetting(model), mrbp, { segmentsPerStep });
        expect(found.losses.map((loss) => loss.toFixed(10))).to.deep.equal(
          expected.losses.map((loss) => loss.toFixed(10)),
        );
        for (const [name, values] of expected.parameters) {
          const own = found.parameters.get(name)!;
          values.forEach((value, i) => {
            expect(own[i], name).to.be.closeTo(value, 1e-12);
          });
        }
      }
    }
  });

  it("sends no gradient to the memory it was given", async () => {
    await using twin = await tinyModel({ memory: false });
    const { gradient } = await runWindow(twin, bptt);
    expect(gradient.flat().every((number) => number === 0)).to.equal(true);
  });

  it("forgets in a session what it read before the segment under way's source", async () => {
    const logits = async (memory: boolean, text: string): Promise<number[]> => {
      await using model = await Memformer.create({ ...plainOptions, preset: "tiny", memory, seed: 4 });
      using session = await Session.open(model);
      await session.read(text);
      return [...(await session.logits())];
    };
    const tail = "the last sixteen characters and thirty-two more..",
      short = `${"a".repeat(16)}${tail}`,
      other = `${"z".repeat(16)}${tail}`;
    expect(await logits(false, short)).to.deep.equal(await logits(false, other));
    expect(await logits(true, short)).not.to.deep.equal(await logits(true, other));
  });
});

describe("a start", () => {
  it("of zero residual outputs leaves tokens as they are, and draws every other weight as without", async () => {
    await using zero = await tinyModel({ residualStart: "zero" });
    await using scaled = await tinyModel({ residualStart: "scaled" });
    for (const { name } of zero.parameters) {
      const [found, expected] = [await read(zero, name), await read(scaled, name)];
      if (/(out|down)\.weight$/.test(name))
        expect(
          found.every((value) => value === 0),
          name,
        ).to.equal(true);
      else expect(found, name).to.deep.equal(expected);
    }
  });

  it("gives ||v|| its norms, evenly in the logarithm, as numbers of the parameter or beside it", async () => {
    await using inside = await tinyModel({ width: 64, forgettingBias: 1, forgettingBiasLeast: 0.01 });
    await using plain = await tinyModel({ width: 64 });
    const v = await read(inside, "writer.v_bias"),
      w = await read(plain, "writer.v_bias");
    const norm = (all: number[], slot: number): number => Math.hypot(...all.slice(64 * slot, 64 * (slot + 1)));
    for (const [slot, expected] of [1, 0.1, 0.01].entries())
      expect(norm(v, slot) / norm(w, slot)).to.be.closeTo(expected, 1e-9);
    await using beside = await tinyModel({
      width: 64,
      forgettingBias: 1,
      forgettingBiasLeast: 0.01,
      forgettingScaled: true,
    });
    expect(await read(beside, "writer.v_bias")).to.deep.equal(w);
    const [one, other] = [await runWindow(inside, mrbp), await runWindow(beside, mrbp)];
    one.losses.forEach((loss, t) => {
      expect(other.losses[t]).to.be.closeTo(loss, 1e-12);
    });
  });
});

describe("the gradient of the memory over a border", () => {
  it("is the exact one times memoryGradient to the power of the borders behind it", async () => {
    const reached = async (memoryGradient: number): Promise<number[]> => {
      await using model = await tinyModel({ memoryGradient });
      return (await runWindow(model, bptt, { weights: [0, 0, 0, 1] }, undefined, { ragged: false })).gradient.flat();
    };
    const [exact, damped] = [await reached(1), await reached(0.5)];
    exact.forEach((value, i) => {
      expect(damped[i]).to.be.closeTo(value / 16, 1e-15);
    });
  });

  it("has rows of no more than memoryGradientLimit means", async () => {
    await using model = await tinyModel({ memoryGradientLimit: 1 });
    const { gradient } = await runWindow(model, bptt, {}, undefined, { ragged: false });
    const rows = 4,
      row = gradient[0]!.length / rows;
    const norms = Array.from({ length: rows }, (_, b) => Math.hypot(...gradient[0]!.slice(b * row, (b + 1) * row)));
    expect(Math.max(...norms) / Math.min(...norms)).to.be.below(1.5);
  });
});

describe("an option that came later", () => {
  it("has its plain value where config.json does not name it, whatever the default is by now", async () => {
    const folder = await mkdtemp(join(tmpdir(), "memformer-recipe-"));
    try {
      await using model = await tinyModel({ ...plainOptions });
      await model.save(folder);
      const path = join(folder, "config.json"),
        config = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
      for (const key of Object.keys(plainOptions)) delete config[key];
      await writeFile(path, JSON.stringify(config));
      await using loaded = await Memformer.load(folder);
      for (const [key, value] of Object.entries(plainOptions))
        expect(loaded.config[key as keyof typeof plainOptions], key).to.equal(value);
      expect((await runWindow(loaded, mrbp)).losses).to.deep.equal((await runWindow(model, mrbp)).losses);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("is an option of a model, and every option of the recipe's tests is one", () => {
    const known = Object.keys(modelSchema.shape);
    expect(known).to.include.members(Object.keys(plainOptions));
    expect(known).to.include.members(recipeOptions.flatMap((options) => Object.keys(options)));
  });
});

describe("a horizon that grows", () => {
  const config = (options: object): ReturnType<typeof trainSchema.parse> => trainSchema.parse(options);

  it("doubles in equal shares of its steps, and then is whole", () => {
    const at = (steps: number[], options: object): number[] => steps.map((step) => horizonOf(step, config(options)));
    expect(at([1, 150, 151, 300, 301, 600], { horizon: 8, steps: 600, horizonGrowth: 0.5 })).to.deep.equal([
      2, 2, 4, 4, 8, 8,
    ]);
    expect(at([1, 300, 301], { horizon: 6, steps: 600, horizonGrowth: 0.5 })).to.deep.equal([3, 3, 6]);
    expect(at([1, 600], { horizon: 8, steps: 600 })).to.deep.equal([8, 8]);
    expect(at([1], { horizon: 7, steps: 600, horizonGrowth: 0.5 })).to.deep.equal([7]);
  });

  it("is refused beside windows that overlap", () => {
    expect(() => horizonOf(1, config({ horizon: 8, overlap: 2, horizonGrowth: 0.5 }))).to.throw("do not overlap");
  });
});

/** The model, to which every segment starts a document. */
function resetting(model: Memformer): Memformer {
  return new Proxy(model, {
    get: (target, name) => {
      if (name === "upload")
        return (segment: Segment) => target.upload({ ...segment, reset: new Uint8Array(segment.batch).fill(1) });
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

async function read(model: Memformer, name: string): Promise<number[]> {
  using value = model.parameter(name);
  return [...(await value.data())].map(Number);
}
