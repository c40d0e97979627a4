import { expect } from "chai";
import { join } from "node:path";
import { AdamW, composedParameters, Memformer, type ParameterSpec } from "../lib/index.ts";
import { Counting } from "./support/composed-models.ts";
import { bits, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { temporary } from "./support/runs.ts";

const head: ParameterSpec = { name: "head.weight", shape: [16, 2], deviation: 0.1, decay: true };

describe("parameters of your own", () => {
  it("are drawn by the seed from N(value, deviation^2), the same each time", async () => {
    const specs = [
      { name: "drawn", shape: [50, 40], deviation: 2, value: 3 },
      { name: "constant", shape: [3], value: -1 },
    ];
    const draw = async (seed: number): Promise<string> => {
      const { made } = await composedParameters(specs, { seed, device: "cpu" });
      expect(made.parameters).to.deep.equal([
        { name: "drawn", shape: [50, 40], decay: false },
        { name: "constant", shape: [3], decay: false },
      ]);
      await using model = new Counting({ made, device: "cpu", precision: "float32", dtype: "float32" });
      using constant = model.parameter("constant");
      expect([...(await constant.data())]).to.deep.equal([-1, -1, -1]);
      using drawn = model.parameter("drawn");
      const values = [...(await drawn.data())].map(Number),
        mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      expect(mean).to.be.closeTo(3, 0.2);
      const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
      expect(Math.sqrt(square)).to.be.closeTo(2, 0.15);
      return bits(drawn);
    };
    expect(await draw(1)).to.equal(await draw(1));
    expect(await draw(1)).to.not.equal(await draw(2));
  });

  const misuses: Record<string, [() => Promise<unknown>, RegExp]> = {
    "no parameter": [() => composedParameters([]), /at least one parameter, got none/],
    "a name met twice": [() => composedParameters([head, head]), /"head\.weight" is named twice/],
    "a size of 0": [() => composedParameters([{ name: "a", shape: [2, 0] }]), /"a": sizes .* at least 1, got \[2, 0\]/],
    "a deviation below 0": [() => composedParameters([{ name: "a", shape: [1], deviation: -1 }]), /"a": deviation/],
    "a value that is not finite": [() => composedParameters([{ name: "a", shape: [1], value: NaN }]), /"a": deviation/],
    "a seed that is not whole": [() => composedParameters([head], { seed: 0.5 }), /seed/],
    "a head of a float16 model": [
      () => Memformer.create({ preset: "tiny", precision: "float16", device: "cpu" }, [head]),
      /"float16" takes no parameters of your own/,
    ],
  };
  for (const [name, [call, words]] of Object.entries(misuses)) {
    it(`refuse ${name}`, async () => {
      const { code, message } = await failure(call());
      expect(code).to.equal("ERR_MEMFORMER_CONFIG");
      expect(message).to.match(words);
    });
  }

  it("beside a model's own leave its weights as they are, and are saved and loaded with it", async () => {
    const folder = await temporary();
    try {
      await using plain = await tinyModel();
      await using model = await Memformer.create({ ...plain.config, device: "cpu" }, [head]);
      expect(model.parameters.slice(0, -1)).to.deep.equal(plain.parameters);
      for (const { name } of plain.parameters) {
        using one = plain.parameter(name);
        using other = model.parameter(name);
        expect(await bits(other)).to.equal(await bits(one));
      }
      await model.save(join(folder.path, "model"));
      await using loaded = await Memformer.load(join(folder.path, "model"), { device: "cpu" }, [head]);
      using found = loaded.parameter(head.name);
      using saved = model.parameter(head.name);
      expect(await bits(found)).to.equal(await bits(saved));
      const { code, message } = await failure(Memformer.load(join(folder.path, "model"), { device: "cpu" }));
      expect(code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
      expect(message).to.include('"head.weight"');
    } finally {
      await folder.remove();
    }
  });

  it("are gone with the model they are shared with", async () => {
    const encoder = await Memformer.create({ preset: "tiny", device: "cpu" }, [head]);
    const shared = encoder.share();
    await encoder.dispose();
    expect(() => new AdamW(new Counting(shared))).to.throw(/disposed/);
  });
});
