import { expect } from "chai";
import { mrbp, PADDING, Tensor, tidy, type Memformer, type Segment } from "../lib/index.ts";
import { bits, numbers, perturb, positions, randomWindow, tinyModel, memformers, writers } from "./support/models.ts";

/** Those whose state is the memory alone, a tensor that can be made here. */
const ofMemory = memformers.filter((architecture) => architecture !== "cached-decoder");
const settings = ofMemory.flatMap((architecture) =>
  writers.flatMap((writer) => positions.map((position) => ({ architecture, writer, position }))),
);

const B = 3;

/** Loss and next memory of one segment, memory carried in. */
async function step(model: Memformer, segment: Segment, memory: Tensor): Promise<{ loss: number; memory: number[] }> {
  const { loss, state } = tidy(() => model.forward(model.upload(segment), [memory]));
  const [losses, next] = await Promise.all([numbers([loss]), numbers(state)]);
  return { loss: losses[0]![0]!, memory: next[0]! };
}

const numbersOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

/** A memory that segments have written: not the initial one, and another in each row. */
async function written(model: Memformer, rows = B): Promise<Tensor> {
  return tidy(() => {
    const window = randomWindow(model, { batch: rows, segments: 2, seed: 3, ragged: false });
    let state = model.initialState(rows);
    for (const segment of window) state = model.advance(model.upload(segment), state);
    return state[0]!;
  });
}

/** The segment with `before` and `after` positions of padding around every row. */
function pad(segment: Segment, before: number, after: number): Segment {
  const { batch, length } = segment,
    wide = before + length + after;
  const widen = (tokens: Int32Array): Int32Array => {
    const result = new Int32Array(batch * wide).fill(PADDING);
    for (let b = 0; b < batch; b++) result.set(tokens.subarray(b * length, (b + 1) * length), b * wide + before);
    return result;
  };
  const { source, target } = segment;
  return { ...segment, length: wide, source: widen(source), target: widen(target) };
}

/** The first `length` tokens of every row. */
function shortened({ batch, length: T, source, target, reset }: Segment, length: number): Segment {
  const cut = (tokens: Int32Array): Int32Array =>
    Int32Array.from({ length: batch * length }, (_, i) => tokens[Math.floor(i / length) * T + (i % length)]!);
  return { batch, length, source: cut(source), target: cut(target), reset };
}

function rowsOf(segment: Segment, order: readonly number[]): Segment {
  const { length: T } = segment;
  const take = (tokens: Int32Array): Int32Array =>
    Int32Array.from(order.flatMap((row) => [...tokens.subarray(row * T, (row + 1) * T)]));
  return {
    ...segment,
    batch: order.length,
    source: take(segment.source),
    target: take(segment.target),
    reset: Uint8Array.from(order, (row) => segment.reset[row]!),
  };
}

function expectClose(found: readonly number[], wanted: readonly number[], what: string): void {
  expect(found.length).to.equal(wanted.length);
  const worst = Math.max(...found.map((value, i) => Math.abs(value - wanted[i]!)));
  expect(worst, what).to.be.at.most(1e-11);
}

describe("padding", function () {
  this.timeout(60_000);

  for (const setting of settings) {
    it(`changes neither loss nor memory: ${Object.values(setting).join(", ")}`, async () => {
      await using model = await tinyModel({ ...setting, segmentLength: 11 });
      await perturb(model);
      const memory = await written(model);
      const segment = shortened(randomWindow(model, { batch: B, segments: 1, ragged: false })[0]!, 6);
      const plain = await step(model, segment, memory);
      for (const [before, after] of [
        [0, 2],
        [0, 5],
        [2, 0],
        [1, 3],
      ] as const) {
        // A decoder's first input stands before its target, so padding there cuts the two apart; an encoder sees none
        // of it.
        if (before > 0 && setting.architecture === "decoder") continue;
        const padded = await step(model, pad(segment, before, after), memory);
        expectClose(padded.memory, plain.memory, `memory, ${before} before and ${after} after`);
        if (before > 0 && setting.architecture === "encoder-decoder") continue;
        expectClose([padded.loss], [plain.loss], `loss, ${before} before and ${after} after`);
      }
    });
  }

  it("gives the same whether it is told by lengths or by a mask", async () => {
    for (const setting of settings) {
      await using model = await tinyModel(setting);
      const memory = await written(model),
        [segment] = randomWindow(model, { batch: B, segments: 1, ragged: "behind" });
      const byLengths = await step(model, segment!, memory);
      using none = Tensor.from(new Int32Array(0), [0]);
      const { loss, state } = tidy(() => model.forward({ ...model.upload(segment!), lengths: none }, [memory]));
      const masked = await numbers([loss]),
        next = await numbers(state);
      expectClose([byLengths.loss], masked[0]!, JSON.stringify(setting));
      expectClose(byLengths.memory, next[0]!, JSON.stringify(setting));
    }
  });

  it("filling a row leaves that row's memory as it was, to the bit, and scores nothing of it", async () => {
    for (const setting of settings) {
      await using model = await tinyModel({ ...setting, precision: "float32" });
      const memory = await written(model),
        { memorySlots, width, segmentLength: T } = model.config;
      const [segment] = randomWindow(model, { batch: B, segments: 1, ragged: false });
      for (const tokens of [segment!.source, segment!.target]) tokens.fill(PADDING, T, 2 * T);
      const made = tidy(() => model.forward(model.upload({ ...segment! }), [memory]));
      const row = (text: string): string => text.slice(8 * memorySlots * width, 2 * 8 * memorySlots * width);
      const before = await bits(memory),
        after = await bits(made.state[0]!);
      expect(row(after), JSON.stringify(setting)).to.equal(row(before));
      expect(after).to.not.equal(before);
      expect(await made.count.item()).to.equal(2 * T);
      expect(Number.isFinite(await made.loss.item())).to.be.true;
    }
  });

  it("filling every row gives loss 0 of 0 targets, and finite gradients", async () => {
    for (const setting of settings) {
      await using model = await tinyModel(setting);
      const [segment] = randomWindow(model, { batch: B, segments: 1, ragged: false });
      segment!.source.fill(PADDING);
      segment!.target.fill(PADDING);
      const result = tidy(() => {
        const empty = model.upload({ ...segment! });
        return mrbp(model, [empty, empty], model.initialState(B));
      });
      expect((await numbers(result.losses)).flat()).to.deep.equal([0, 0]);
      expect((await numbers(result.counts)).flat()).to.deep.equal([0, 0]);
      for (const { name } of model.parameters) {
        using gradient = model.gradient(name);
        expect(
          [...(await gradient.data())].every((value) => Number.isFinite(Number(value))),
          name,
        ).to.be.true;
      }
    }
  });
});

describe("rows of a batch", function () {
  this.timeout(60_000);

  for (const setting of settings) {
    it(`know nothing of one another: ${Object.values(setting).join(", ")}`, async () => {
      await using model = await tinyModel(setting);
      await perturb(model);
      const memory = await written(model),
        { shape } = model.stateLayout[0]!,
        size = numbersOf(shape);
      const [segment] = randomWindow(model, { batch: B, segments: 1 });
      const all = await step(model, segment!, memory);
      const values = [...(await memory.data())].map(Number);
      const order = [2, 0, 1];
      const of = (numbers_: readonly number[], rows: readonly number[]): number[] =>
        rows.flatMap((row) => numbers_.slice(row * size, (row + 1) * size));
      const permuted = Tensor.from(Float64Array.from(of(values, order)), [B, ...shape]);
      const moved = await step(model, rowsOf(segment!, order), permuted);
      expectClose(moved.memory, of(all.memory, order), "memory, permuted");
      expectClose([moved.loss], [all.loss], "loss, permuted");
      for (const row of [0, 1, 2]) {
        using alone = Tensor.from(Float64Array.from(of(values, [row])), [1, ...shape]);
        const { memory: next } = await step(model, rowsOf(segment!, [row]), alone);
        expectClose(next, of(all.memory, [row]), `row ${row} alone`);
      }
      permuted.dispose();
    });
  }

  it("restart where a segment starts a document, as a fresh state does, and only there", async () => {
    for (const setting of settings) {
      await using model = await tinyModel(setting);
      await perturb(model);
      const memory = await written(model),
        [segment] = randomWindow(model, { batch: B, segments: 1, ragged: false });
      const size = numbersOf(model.stateLayout[0]!.shape);
      const fresh = tidy(() => model.initialState(B)[0]!);
      const restarted = await step(model, { ...segment!, reset: Uint8Array.of(0, 1, 0) }, memory);
      const carried = await step(model, segment!, memory),
        anew = await step(model, segment!, fresh);
      const row = ({ memory: all }: { memory: number[] }, i: number): number[] => all.slice(i * size, (i + 1) * size);
      expect(row(restarted, 1)).to.deep.equal(row(anew, 1));
      expect(row(restarted, 1)).to.not.deep.equal(row(carried, 1));
      for (const i of [0, 2]) expect(row(restarted, i)).to.deep.equal(row(carried, i));
    }
  });
});

describe("the state", () => {
  it("has one size, whatever it has read", async () => {
    await using model = await tinyModel();
    let state = model.initialState(2);
    for (const segment of randomWindow(model, { batch: 2, segments: 12 })) {
      const next = tidy(() => model.advance(model.upload(segment), state));
      for (const tensor of state) tensor.dispose();
      state = next;
      const { shape, data } = await state[0]!.read();
      expect(shape).to.deep.equal([2, 3, 16]);
      expect(data.byteLength).to.equal(2 * model.stateBytes);
    }
  });

  it("matters: another memory gives another loss", async () => {
    for (const setting of settings) {
      await using model = await tinyModel(setting);
      await perturb(model);
      const [segment] = randomWindow(model, { batch: B, segments: 1, ragged: false });
      const memory = await written(model),
        fresh = tidy(() => model.initialState(B)[0]!);
      const here = await step(model, segment!, memory),
        there = await step(model, segment!, fresh);
      expect(Math.abs(here.loss - there.loss), JSON.stringify(setting)).to.be.above(1e-6);
    }
  });

  it("of another number of rows, of another shape or missing is refused, not read past its end", async () => {
    await using model = await tinyModel();
    const [segment] = randomWindow(model, { batch: B, segments: 1, ragged: false });
    const wrong: Record<string, readonly Tensor[]> = {
      none: [],
      two: [...model.initialState(B), ...model.initialState(B)],
      rows: model.initialState(1),
      slots: [Tensor.from(new Float64Array(B * 2 * 16), [B, 2, 16])],
      flat: [Tensor.from(new Float64Array(4), [4])],
    };
    for (const [name, state] of Object.entries(wrong)) {
      for (const call of ["forward", "encode", "advance"] as const) {
        let failure: unknown;
        try {
          const made = tidy(() => model[call](model.upload(segment!), state));
          await ("loss" in made ? made.loss : "hidden" in made ? made.hidden : made[0])?.read();
        } catch (error) {
          failure = error;
        }
        expect(failure, `${call}, ${name}`).to.have.property("code", "ERR_MEMFORMER_SHAPE");
      }
    }
  });
});
