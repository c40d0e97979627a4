import { expect } from "chai";
import { AdamW, mrbp, Tensor, tidy, type Memformer } from "../lib/index.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";
import { randomWindow, tinyModel } from "./support/models.ts";

/** One training step; its gradient's norm. */
async function step(model: Memformer, optimizer: AdamW): Promise<number> {
  const norm = tidy(() => {
    const window = randomWindow(model).map((segment) => model.upload(segment));
    mrbp(model, window, model.initialState(4));
    const made = model.clipGradients(0);
    optimizer.step(1e-3, made, 1);
    return made;
  });
  const value = await norm.item();
  norm.dispose();
  return value;
}

async function value(optimizer: AdamW, name: string): Promise<number> {
  using tensor = optimizer.tensor(name);
  return tensor.item();
}

async function weights(model: Memformer): Promise<number[]> {
  using tensor = model.parameter("embedding.weight");
  return Array.from(await tensor.data(), Number);
}

describeOnGpu("the loss scale of float16 on a GPU", function () {
  this.timeout(60_000);

  it("does not show in the gradient's norm", async () => {
    await using model = await tinyModel({ precision: "float16", device: GPU });
    await using wide = await tinyModel({ precision: "float32", device: GPU });
    using optimizer = new AdamW(model),
      other = new AdamW(wide);
    expect(await value(optimizer, "loss_scale")).to.equal(65536);
    const expected = await step(wide, other);
    expect(Math.abs((await step(model, optimizer)) - expected) / expected).to.be.at.most(2e-2);
  });

  it("halves where gradients are not finite, and the weights stay; then training goes on", async () => {
    await using model = await tinyModel({ precision: "float16", device: GPU });
    using optimizer = new AdamW(model);
    const before = await weights(model);
    using far = Tensor.from(Float32Array.of(2 ** 100), []);
    optimizer.assign("loss_scale", far);
    expect(await step(model, optimizer)).to.satisfy((norm: number) => !Number.isFinite(norm));
    expect(await value(optimizer, "loss_scale")).to.equal(2 ** 99);
    expect(await value(optimizer, "embedding.weight.step")).to.equal(0);
    expect(await weights(model)).to.deep.equal(before);
    using near = Tensor.from(Float32Array.of(1024), []);
    optimizer.assign("loss_scale", near);
    expect(await step(model, optimizer)).to.satisfy(Number.isFinite);
    expect(await value(optimizer, "embedding.weight.step")).to.equal(1);
    expect(await weights(model)).not.to.deep.equal(before);
  });

  it("doubles after 2,000 steps", async () => {
    await using model = await tinyModel({ precision: "float16", device: GPU });
    using optimizer = new AdamW(model),
      nearly = Tensor.from(Int32Array.of(1998), []),
      scale = Tensor.from(Float32Array.of(8), []);
    optimizer.assign("loss_scale", scale);
    optimizer.assign("good_steps", nearly);
    await step(model, optimizer);
    expect([await value(optimizer, "loss_scale"), await value(optimizer, "good_steps")]).to.deep.equal([8, 1999]);
    await step(model, optimizer);
    expect([await value(optimizer, "loss_scale"), await value(optimizer, "good_steps")]).to.deep.equal([16, 0]);
  });
});
