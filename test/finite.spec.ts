import { expect } from "chai";
import { cp, readdir } from "node:fs/promises";
import { join } from "node:path";
import { ITEM_BYTES, type DType } from "../lib/checkpoint/host-tensor.ts";
import { openSafetensors, tensorEntry, writeSafetensors } from "../lib/checkpoint/safetensors.ts";
import { Memformer, openTokenizer, Tensor } from "../lib/index.ts";
import { failure } from "./support/failure.ts";
import { runModel, temporary } from "./support/runs.ts";

describe("numbers that are not finite", function () {
  this.timeout(120_000);
  let folder: Awaited<ReturnType<typeof temporary>>;
  beforeEach(async () => {
    folder = await temporary();
  });
  afterEach(async () => folder.remove());

  async function spoilt(value: number): Promise<{ model: Memformer; name: string }> {
    const model = await runModel(),
      { name, shape } = model.parameters[3]!;
    const numbers = new Float32Array(shape.reduce((product, size) => product * size, 1)).fill(0.5);
    numbers[numbers.length - 1] = value;
    using tensor = Tensor.from(numbers, shape);
    model.assign(name, tensor);
    return { model, name };
  }

  for (const value of [NaN, Infinity, -Infinity]) {
    it(`in weights are not saved, and what is there stays: ${value}`, async () => {
      const { model, name } = await spoilt(value),
        path = join(folder.path, "model");
      await using sound = await runModel();
      await sound.save(path);
      const error = await failure(model.save(path));
      expect(error.code).to.equal("ERR_MEMFORMER_NOT_FINITE");
      expect(error.message).to.include(`"${name}"`);
      expect(await readdir(folder.path)).to.deep.equal(["model"]);
      await (await Memformer.load(path)).dispose();
      await model.dispose();
    });

    it(`in a file's weights are not loaded: ${value}`, async () => {
      const path = join(folder.path, "model"),
        weights = join(path, "model.safetensors");
      await using model = await runModel();
      await model.save(path);
      const { name } = model.parameters[5]!;
      await rewritten(weights, (entry, data) => {
        if (entry === name) new DataView(data.buffer, data.byteOffset).setFloat32(0, value, true);
        return undefined;
      });
      const error = await failure(Memformer.load(path));
      expect(error.code).to.equal("ERR_MEMFORMER_NOT_FINITE");
      expect(error.message).to.include(`"${name}"`).and.include(weights);
    });
  }

  it("in a session's memory are not saved", async () => {
    await using model = (await spoilt(NaN)).model;
    using session = await model.session({ ...(await openTokenizer("bytes")), vocabulary: 18 });
    await session.read(Array.from({ length: 30 }, (_, i) => i % 17));
    const error = await failure(session.save());
    expect(error.code).to.equal("ERR_MEMFORMER_NOT_FINITE");
    expect(error.message).to.include("the session's memory");
  });

  async function rewritten(
    path: string,
    change: (name: string, data: Uint8Array) => { dtype: DType; data: Uint8Array } | undefined,
  ): Promise<void> {
    const file = await openSafetensors(path),
      all = await file.readAll(),
      metadata = file.metadata;
    await file.close();
    await cp(path, `${path}.before`);
    const entries = [...all].map(([name, tensor]) => tensorEntry(name, { ...tensor, ...change(name, tensor.data) }));
    await writeSafetensors(path, entries, metadata);
  }

  it("whole numbers for weights, as quantized files have, are refused as another format", async () => {
    const path = join(folder.path, "model"),
      weights = join(path, "model.safetensors");
    await using model = await runModel();
    await model.save(path);
    const { name, shape } = model.parameters[2]!,
      size = shape.reduce((product, n) => product * n, 1);
    for (const dtype of ["int64", "int32", "uint8", "bool"] as const) {
      await rewritten(weights, (entry) =>
        entry === name ? { dtype, data: new Uint8Array(size * ITEM_BYTES[dtype]) } : undefined,
      );
      const error = await failure(Memformer.load(path));
      expect(error.code, dtype).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
      expect(error.message).to.include(`tensor "${name}" is ${dtype}`);
      await cp(`${weights}.before`, weights);
    }
    for (const dtype of ["float64", "float16", "bfloat16"] as const) {
      await rewritten(weights, (entry) =>
        entry === name ? { dtype, data: new Uint8Array(size * ITEM_BYTES[dtype]) } : undefined,
      );
      await (await Memformer.load(path)).dispose();
      await cp(`${weights}.before`, weights);
    }
  });
});
