import { expect } from "chai";
import { AdamW, applyOperator, learningRateAt, mrbp, tidy, Tensor, type Schedule } from "../lib/index.ts";
import { perturb, randomWindow, takeGradients, tinyModel } from "./support/models.ts";
import { plainMrbp } from "./support/plain-mrbp.ts";
import { addGradient, parameterValues } from "./support/training.ts";

const options = { beta1: 0.8, beta2: 0.95, eps: 1e-6, weightDecay: 0.3 };

describe("AdamW", () => {
  it("is Loshchilov and Hutter's, decay on matrices alone: five steps in plain numbers", async () => {
    await using model = await tinyModel({ dropout: 0.1, position: "t5" });
    await perturb(model, 0.05);
    using optimizer = new AdamW(model, options);
    const plain = await parameterValues(model),
      mean = new Map<string, Float64Array>(),
      square = new Map<string, Float64Array>();
    for (let step = 1; step <= 5; step++) {
      addGradient(model, step);
      const gradients = await takeGradients(model);
      addGradient(model, step); // the same again: reading them dropped them
      const rate = 1e-2 / step;
      tidy(() => {
        optimizer.step(rate, model.clipGradients(0));
      });
      for (const { name, decay } of model.parameters) {
        const w = plain.get(name)!,
          g = gradients.get(name)!;
        const m = mean.get(name) ?? new Float64Array(w.length);
        const v = square.get(name) ?? new Float64Array(w.length);
        mean.set(name, m);
        square.set(name, v);
        for (let i = 0; i < w.length; i++) {
          m[i] = options.beta1 * m[i]! + (1 - options.beta1) * g[i]!;
          v[i] = options.beta2 * v[i]! + (1 - options.beta2) * g[i]! ** 2;
          const unbiased = m[i]! / (1 - options.beta1 ** step);
          const spread = Math.sqrt(v[i]! / (1 - options.beta2 ** step));
          w[i] = w[i]! * (1 - (decay ? rate * options.weightDecay : 0)) - (rate * unbiased) / (spread + options.eps);
        }
      }
    }
    const found = await parameterValues(model);
    for (const [name, wanted] of plain) {
      const worst = Math.max(...found.get(name)!.map((value, i) => Math.abs(value - wanted[i]!)));
      expect(worst, name).to.be.at.most(1e-6);
    }
  });

  it("decays no norm, bias, embedding or v_bias, and every other matrix", async () => {
    const settings = [
      { position: "rotary", writer: "gru" },
      { position: "relative", writer: "slot-attention" },
      { position: "t5", writer: "gru", architecture: "decoder" },
      { architecture: "encoder" },
    ] as const;
    for (const setting of settings) {
      await using model = await tinyModel({ ...setting, tieEmbedding: false });
      for (const { name, shape, decay } of model.parameters) {
        const spared = shape.length < 2 || /norm|bias|embedding|relative/.test(name);
        expect(decay, `${name} [${shape.join(", ")}]`).to.equal(!spared);
      }
      expect(model.parameters.some(({ name }) => name.endsWith("v_bias"))).to.be.true;
    }
  });

  it("moves a parameter without gradient by its decay alone, or not at all", async () => {
    await using model = await tinyModel();
    using optimizer = new AdamW(model, options);
    const before = await parameterValues(model);
    tidy(() => {
      optimizer.step(1e-2, model.clipGradients(1));
    });
    expect(await parameterValues(model)).to.deep.equal(before);
  });

  it("skips a step whose norm is not finite, moments and counts included", async () => {
    await using model = await tinyModel(),
      other = await tinyModel();
    using skipping = new AdamW(model, options),
      plain = new AdamW(other, options);
    for (const seed of [1, 2, 3]) {
      addGradient(model, seed);
      if (seed === 2) {
        using infinite = Tensor.from(Float64Array.of(NaN), []);
        skipping.step(1e-2, infinite);
        continue;
      }
      tidy(() => {
        skipping.step(1e-2, model.clipGradients(1));
      });
      addGradient(other, seed);
      tidy(() => {
        plain.step(1e-2, other.clipGradients(1));
      });
    }
    const [a, b] = await Promise.all([parameterValues(model), parameterValues(other)]);
    expect(a).to.deep.equal(b);
    const read = async (optimizer: AdamW) =>
      Promise.all(
        optimizer.entries().map(async (entry) => [entry.name, Buffer.from(await entry.read()).toString("hex")]),
      );
    expect(await read(skipping)).to.deep.equal(await read(plain));
  });
});

describe("training steps by MRBP", () => {
  it("are those of the plain loop, to the bit: with segments apart and together", async () => {
    for (const segmentsPerStep of [1, 2, 3]) {
      const trained = async (plain: boolean): Promise<Map<string, Float64Array>> => {
        await using model = await tinyModel({ precision: "float32" });
        using optimizer = new AdamW(model, { weightDecay: 0.01 });
        const window = randomWindow(model, { segments: 3, ragged: false }).map((segment) => model.upload(segment));
        let state = model.initialState(4);
        for (let i = 0; i < 3; i++) {
          state = tidy(() => {
            const made = plain
              ? { state: plainMrbp(model, window, state, segmentsPerStep) }
              : mrbp(model, window, state, { segmentsPerStep });
            optimizer.step(1e-3, model.clipGradients(0), 1);
            return made.state;
          });
        }
        return await parameterValues(model);
      };
      expect(await trained(true)).to.deep.equal(await trained(false));
    }
  });
});

describe("clipping", () => {
  it("scales all gradients to the norm asked for, never up, and gives the norm before", async () => {
    await using model = await tinyModel();
    addGradient(model, 1);
    const gradients = await takeGradients(model);
    const norm = Math.hypot(...[...gradients.values()].map((all) => Math.hypot(...all)));
    for (const [most, factor] of [
      [norm / 2, 0.5],
      [norm * 2, 1],
      [0, 1],
    ] as const) {
      addGradient(model, 1);
      using found = model.clipGradients(most);
      expect(await found.item()).to.be.closeTo(norm, 1e-9 * norm);
      const clipped = await takeGradients(model);
      for (const [name, all] of clipped) {
        all.forEach((value, i) => {
          expect(value).to.be.closeTo(gradients.get(name)![i]! * factor, 2e-6 * norm);
        });
      }
    }
  });

  it("of no gradient at all is norm 0", async () => {
    await using model = await tinyModel();
    using norm = tidy(() => applyOperator("aten::add.Scalar", model.clipGradients(1), 0));
    expect(await norm.item()).to.equal(0);
  });
});

describe("the learning rate", () => {
  const base: Schedule = { learningRate: 2, schedule: "cosine", warmup: 4, steps: 12, finalLearningRate: 0.1 };

  it("rises linearly, then falls by cosine, by a line or not at all, to its final share", () => {
    const at = (schedule: Schedule["schedule"], step: number): number => learningRateAt(step, { ...base, schedule });
    for (const schedule of ["cosine", "linear", "constant"] as const) {
      expect([1, 2, 3, 4].map((step) => at(schedule, step))).to.deep.equal([0.5, 1, 1.5, 2]);
    }
    expect(at("linear", 8)).to.be.closeTo(1.1, 1e-12);
    expect(at("cosine", 8)).to.be.closeTo(1.1, 1e-12);
    expect(at("cosine", 6)).to.be.closeTo(0.2 + (1.8 * (1 + Math.SQRT1_2)) / 2, 1e-12);
    for (const schedule of ["linear", "cosine"] as const) expect(at(schedule, 12)).to.be.closeTo(0.2, 1e-12);
    expect(at("constant", 12)).to.equal(2);
  });

  it("starts at its peak without warm-up, is never negative, and stays at the end after the end", () => {
    expect(learningRateAt(1, { ...base, warmup: 0, schedule: "constant" })).to.equal(2);
    for (const schedule of ["cosine", "linear"] as const) {
      for (const warmup of [0, 4, 12, 20]) {
        for (let step = 1; step <= 30; step++) {
          const rate = learningRateAt(step, { ...base, schedule, warmup, finalLearningRate: 0 });
          expect(rate).to.be.at.least(0).and.at.most(2);
        }
      }
      expect(learningRateAt(99, { ...base, schedule })).to.be.closeTo(0.2, 1e-12);
    }
  });
});
