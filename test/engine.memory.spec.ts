import { expect } from "chai";
import {
  AdamW,
  disposeSegment,
  memoryUsage,
  mrbp,
  resetPeakMemory,
  synchronize,
  tidy,
  type Memformer,
  type State,
  type Tensor,
} from "../lib/index.ts";
import { randomWindow, tinyModel } from "./support/models.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";

/** `count` training windows, memory carried from one to the next. */
async function windows(model: Memformer, optimizer: AdamW, count: number, state: State): Promise<State> {
  for (let i = 0; i < count; i++) {
    const made = tidy(() => {
      const window = randomWindow(model, { seed: i % 7 }).map((segment) => model.upload(segment));
      const result = mrbp(model, window, state, { seed: i });
      const norm = model.clipGradients(1);
      optimizer.step(1e-4, norm);
      return { loss: result.losses[0]!, state: result.state };
    });
    for (const tensor of state) tensor.dispose();
    state = made.state;
    await made.loss.item();
    made.loss.dispose();
  }
  return state;
}

describe("memory", function () {
  this.timeout(600_000);

  it("is back at its start after 200 MRBP windows, to the byte and the handle", async () => {
    await using model = await tinyModel({ precision: "float32", dropout: 0.1 });
    using optimizer = new AdamW(model);
    let state = await windows(model, optimizer, 2, model.initialState(4)); // gradients and moments exist now
    const start = await memoryAtRest();
    state = await windows(model, optimizer, 200, state);
    const { hostBytes, tensors } = await memoryAtRest();
    expect({ hostBytes, tensors }).to.deep.equal({ hostBytes: start.hostBytes, tensors: start.tensors });
    for (const tensor of state) tensor.dispose();
  });

  it("does not need the garbage collector: handles go when they are disposed of", async () => {
    await using model = await tinyModel({ precision: "float32" });
    using optimizer = new AdamW(model);
    const state = await windows(model, optimizer, 2, model.initialState(4));
    const start = (await memoryAtRest()).hostBytes;
    const last = await windows(model, optimizer, 10, state);
    await synchronize();
    expect(memoryUsage().hostBytes).to.equal(start);
    for (const tensor of last) tensor.dispose();
  });

  it("of MRBP grows by no more than two memories a segment of the window", async () => {
    await using model = await tinyModel({ precision: "float32", memorySlots: 64, width: 64 });
    const peak = async (segments: number): Promise<number> => {
      const window = randomWindow(model, { segments, ragged: false }).map((segment) => model.upload(segment));
      const start = (await memoryAtRest()).hostBytes;
      resetPeakMemory();
      const result = tidy(() => mrbp(model, window, model.initialState(4)));
      await synchronize();
      const most = memoryUsage().peakHostBytes - start;
      for (const tensor of Object.values(result).flat() as Tensor[]) tensor.dispose();
      window.forEach(disposeSegment);
      model.zeroGradients();
      return most;
    };
    await peak(2);
    const small = await peak(4),
      large = await peak(20);
    // The losses and counts come on top, a block of 512 bytes each.
    expect((large - small) / 16).to.be.at.most(2 * 4 * model.stateBytes + 4 * 512);
  });

  it("of the process stays flat over 2,000 windows, within 2 %", async function () {
    if (process.env["MEMFORMER_SLOW_TESTS"] !== "1") this.skip();
    await using model = await tinyModel({ precision: "float32", dropout: 0.1 });
    using optimizer = new AdamW(model);
    let state = await windows(model, optimizer, 1000, model.initialState(4)); // until then JavaScript's own heap finds its size
    const start = await memoryAtRest(),
      rss = process.memoryUsage.rss();
    state = await windows(model, optimizer, 2000, state);
    const { hostBytes, tensors } = await memoryAtRest(),
      after = process.memoryUsage.rss();
    console.log(`      resident: ${(rss / 2 ** 20).toFixed(1)} MiB before, ${(after / 2 ** 20).toFixed(1)} MiB after`);
    expect({ hostBytes, tensors }).to.deep.equal({ hostBytes: start.hostBytes, tensors: start.tensors });
    expect(after / rss).to.be.at.most(1.02);
    for (const tensor of state) tensor.dispose();
  });
});
