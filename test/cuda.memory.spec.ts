import { expect } from "chai";
import {
  AdamW,
  disposeSegment,
  isMemformerError,
  memoryUsage,
  Memformer,
  type MemformerError,
  mrbp,
  resetPeakMemory,
  type State,
  synchronize,
  Tensor,
  tidy,
  trimMemory,
} from "../lib/index.ts";
import { architectures } from "../lib/model/architectures/index.ts";
import { describeOnGpu, GPU, toGpu } from "./support/gpu.ts";
import { randomWindow, relativeError, takeGradients, tinyModel } from "./support/models.ts";

/** `count` training windows, memory carried from one to the next. */
async function train(model: Memformer, optimizer: AdamW, count: number, state: State): Promise<State> {
  for (let i = 0; i < count; i++) {
    const made = tidy(() => {
      const window = randomWindow(model, { seed: i % 7 }).map((segment) => model.upload(segment));
      const result = mrbp(model, window, state, { seed: i });
      optimizer.step(1e-4, model.clipGradients(0), 1);
      return result.state;
    });
    for (const tensor of state) tensor.dispose();
    state = made;
    await synchronize();
  }
  return state;
}

/** Losses and gradients of one small window; nothing stays behind. */
async function measured(model: Memformer): Promise<{ losses: number[]; gradients: Map<string, Float64Array> }> {
  const result = tidy(() =>
    mrbp(
      model,
      randomWindow(model).map((segment) => model.upload(segment)),
      model.initialState(4),
      { seed: 1 },
    ),
  );
  const losses = await Promise.all(result.losses.map(async (loss) => loss.item()));
  for (const tensor of [...result.losses, ...result.counts, ...result.state, ...result.gradient]) tensor.dispose();
  return { losses, gradients: await takeGradients(model) };
}

describeOnGpu("GPU memory", function () {
  this.timeout(120_000);

  it("that runs out is an error with numbers; the model and handles live on, and a smaller batch works", async () => {
    // 2 MiB of memory a row: 100,000 rows fit on no device.
    await using model = await Memformer.create({
      preset: "tiny",
      width: 512,
      heads: 8,
      memorySlots: 1024,
      segmentLength: 8,
      precision: "bfloat16",
      device: GPU,
    });
    for (let i = 0; i < 3; i++) await measured(model);
    const before = await measured(model);
    using given = Tensor.from(Float32Array.of(1, 2, 3), [3]),
      kept = toGpu(given);
    const rows = 100_000;
    const far = tidy(() => {
      const window = randomWindow(model, { batch: rows, segments: 2, ragged: false }).map((segment) =>
        model.upload(segment),
      );
      return mrbp(model, window, model.initialState(rows));
    });
    const error: unknown = await far.losses[0]!.item().catch((caught: unknown) => caught);
    for (const tensor of Object.values(far).flat() as Tensor[]) tensor.dispose();
    if (!isMemformerError(error)) throw error;
    const { code, details } = error as Error as MemformerError;
    expect(code).to.equal("ERR_MEMFORMER_OUT_OF_MEMORY");
    expect(details!["requestedBytes"])
      .to.be.a("number")
      .above(2 ** 20);
    expect(details!["freeBytes"]).to.be.a("number").at.least(0);
    await synchronize().catch(() => undefined);
    expect(Array.from(await kept.data(), Number)).to.deep.equal([1, 2, 3]);
    model.zeroGradients();
    const after = await measured(model);
    for (const [t, loss] of before.losses.entries()) expect(after.losses[t]!).to.be.closeTo(loss, 1e-3);
    expect(relativeError(after.gradients, before.gradients)).to.be.at.most(2e-2);
  });

  it("is the same after 100 MRBP windows, and so is its peak", async () => {
    await using model = await tinyModel({ precision: "bfloat16", dropout: 0.1, device: GPU });
    using optimizer = new AdamW(model);
    let state = await train(model, optimizer, 4, model.initialState(4)); // recorded by now
    const start = memoryUsage();
    resetPeakMemory();
    state = await train(model, optimizer, 10, state);
    const peak = memoryUsage().peakDeviceBytes;
    state = await train(model, optimizer, 90, state);
    const { deviceBytes, peakDeviceBytes } = memoryUsage();
    expect(deviceBytes).to.equal(start.deviceBytes);
    expect(peakDeviceBytes).to.equal(peak);
    for (const tensor of state) tensor.dispose();
  });

  it("of a model comes back with it", async () => {
    await synchronize();
    trimMemory();
    const start = memoryUsage();
    {
      await using model = await tinyModel({ width: 128, precision: "float32", device: GPU });
      using optimizer = new AdamW(model);
      const state = await train(model, optimizer, 4, model.initialState(4));
      expect(memoryUsage().deviceBytes).to.be.above(start.deviceBytes);
      for (const tensor of state) tensor.dispose();
      optimizer.dispose();
    }
    await synchronize();
    trimMemory();
    expect(memoryUsage().deviceBytes).to.be.at.most(start.deviceBytes);
    expect(memoryUsage().reservedDeviceBytes).to.be.at.most(start.reservedDeviceBytes + 64 * 2 ** 20); // cuBLAS keeps its workspaces
  });

  for (const segmentsPerStep of [1, 4])
    it(`of MRBP grows by no more than two memories a segment of the window, ${segmentsPerStep} segments a step`, async () => {
      await using model = await tinyModel({ precision: "float32", memorySlots: 64, width: 64, device: GPU });
      const peak = async (segments: number): Promise<number> => {
        const window = randomWindow(model, { segments, ragged: false }).map((segment) => model.upload(segment));
        await synchronize();
        const start = memoryUsage().deviceBytes;
        resetPeakMemory();
        const result = tidy(() => mrbp(model, window, model.initialState(4), { segmentsPerStep }));
        await synchronize();
        const most = memoryUsage().peakDeviceBytes - start;
        for (const tensor of Object.values(result).flat() as Tensor[]) tensor.dispose();
        window.forEach(disposeSegment);
        model.zeroGradients();
        return most;
      };
      for (let i = 0; i < 3; i++) await peak(8);
      const small = await peak(8),
        large = await peak(24);
      expect((large - small) / 16).to.be.at.most(2 * 4 * model.stateBytes + 4 * 512);
    });

  it("of a segment that goes back with others is about what the choice of their number reckons with", async () => {
    await using model = await tinyModel({
      precision: "bfloat16",
      vocabulary: 1000,
      bos: 0,
      width: 256,
      heads: 4,
      feedForward: 1024,
      encoderLayers: 2,
      decoderLayers: 4,
      memorySlots: 128,
      segmentLength: 128,
      device: GPU,
    });
    model.captureGraphs(false);
    const batch = 8,
      window = randomWindow(model, { batch, segments: 4, ragged: false }).map((segment) => model.upload(segment));
    const peak = async (segmentsPerStep: number): Promise<number> => {
      await synchronize();
      resetPeakMemory();
      const result = tidy(() => mrbp(model, window, model.initialState(batch), { segmentsPerStep }));
      await synchronize();
      for (const tensor of Object.values(result).flat() as Tensor[]) tensor.dispose();
      return memoryUsage().peakDeviceBytes;
    };
    await peak(4); // what is made once is there
    const measured = ((await peak(4)) - (await peak(1))) / 3;
    expect(measured / architectures[model.config.architecture].activationBytes(model.config, batch, 128)).to.be.within(
      0.7,
      1.4,
    );
    window.forEach(disposeSegment);
  });
});
