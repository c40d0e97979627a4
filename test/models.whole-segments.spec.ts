/** What goes over several segments at once gives, to the bit, what goes over one after the other. */
import { expect } from "chai";
import { applyOperator, tidy, type CreateOptions, type Memformer, type State } from "../lib/index.ts";
import { architectures } from "../lib/model/architectures/index.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";
import { bits, memformers, perturb, randomWindow, tinyModel, variants } from "./support/models.ts";

const kept = (state: State): State => state.map((part) => applyOperator("aten::_to_copy", part, "bfloat16"));

/** The state behind a window of four rows, as it goes over its segments one by one, or all at once. */
async function behind(model: Memformer, together: boolean, { narrow = false } = {}): Promise<string[]> {
  const parts = tidy(() => {
    const window = randomWindow(model, { segments: 5, restarts: !narrow }).map((segment) => model.upload(segment));
    const start = narrow ? kept(model.initialState(4)) : model.initialState(4);
    return together
      ? model.advanceAll(window, start)
      : window.reduce((state, segment) => model.advance(segment, state), start);
  });
  const found = await Promise.all(parts.map(bits));
  for (const part of parts) part.dispose();
  return found;
}

/** A session's saved state after each of these reads, `atOnce` segments at a time. */
async function read(model: Memformer, atOnce: number, lengths: readonly number[]): Promise<string[]> {
  Object.defineProperty(model, "segmentsAtOnce", { value: atOnce, configurable: true });
  using session = await model.session();
  const saved: string[] = [];
  let at = 0;
  for (const length of lengths) {
    await session.read(Int32Array.from({ length }, () => (7 * at + (at++ >> 3)) % 256));
    saved.push(Buffer.from(await session.save()).toString("base64"));
  }
  return saved;
}

function same(device: CreateOptions["device"]): void {
  const on = device && { device };
  for (const architecture of variants)
    it(`the state of ${architecture}`, async () => {
      await using model = await tinyModel({ architecture, ...on });
      await perturb(model, 0.1);
      const expected = await behind(model, false);
      for (let time = 0; time < 3; time++) expect(await behind(model, true), `time ${time}`).to.deep.equal(expected);
    });

  for (const architecture of memformers)
    it(`a memory of ${architecture} that is kept in two bytes`, async () => {
      await using model = await tinyModel({ architecture, precision: "bfloat16", ...on });
      await perturb(model, 0.1);
      const expected = await behind(model, false, { narrow: true });
      for (let time = 0; time < 3; time++)
        expect(await behind(model, true, { narrow: true }), `time ${time}`).to.deep.equal(expected);
    });

  for (const architecture of variants.filter((name) => architectures[name].generates))
    it(`what a session of ${architecture} has read`, async () => {
      const options = { architecture, vocabulary: 257, bos: 256, precision: "bfloat16", ...on } as const;
      await using model = await tinyModel(options);
      const T = model.config.segmentLength;
      const lengths = [1, 2 * T + 3, 5 * T, 7 * T - 4, 3 * T, 9 * T + 1];
      let calls = 0;
      const advanceAll = model.advanceAll.bind(model);
      Object.defineProperty(model, "advanceAll", {
        value: (...given: Parameters<typeof advanceAll>) => ((calls += 1), advanceAll(...given)),
      });
      const expected = await read(model, 1, lengths);
      expect(calls).to.equal(0);
      for (let time = 0; time < 2; time++)
        expect(await read(model, 3, lengths), `time ${time}`).to.deep.equal(expected);
      expect(calls).to.be.at.least(10);
    });
}

describe("several segments at once", () => {
  same(undefined);

  it("are not read so while somebody watches the memory", async () => {
    await using model = await tinyModel({ vocabulary: 257, bos: 256 });
    Object.defineProperty(model, "segmentsAtOnce", { value: 2 });
    using session = await model.session();
    const T = model.config.segmentLength,
      seen: number[] = [];
    const end = session.watch({ reached: ({ position }) => seen.push(position), takenBack: () => undefined });
    await session.read(new Int32Array(4 * T));
    expect(seen).to.deep.equal([0, T, 2 * T, 3 * T]);
    end();
    await session.read(new Int32Array(4 * T));
    expect(seen).to.have.length(4);
    expect(session.position).to.equal(8 * T);
  });
});
describeOnGpu("on a GPU, several segments at once", () => same(GPU));
