/** What goes over several segments at once gives, to the bit, what goes over one after the other. */
import { expect } from "chai";
import { applyOperator, Memformer, tidy, type CreateOptions, type State } from "../lib/index.ts";
import { architectures } from "../lib/model/architectures/index.ts";
import { failure } from "./support/failure.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";
import { bits, memformers, perturb, randomWindow, tinyModel, variants } from "./support/models.ts";

const kept = ([memory, ...others]: State): State => [applyOperator("aten::_to_copy", memory!, "bfloat16"), ...others];

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

  it("memories that are kept in two bytes, and in four, of one model in turn", async () => {
    await using model = await tinyModel({ precision: "bfloat16", ...on });
    await perturb(model, 0.1);
    const expected = [await behind(model, false, { narrow: true }), await behind(model, false)] as const;
    for (const [time, kind] of [0, 0, 0, 1, 1, 1, 0, 1].entries())
      expect(await behind(model, true, { narrow: kind === 0 }), `time ${time}`).to.deep.equal(expected[kind]);
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

/** A model that takes three segments at once, and whose method fails the next time it is called where `armed`. */
async function failing(method: "advance" | "advanceAll"): Promise<{ model: Memformer; arm: () => void }> {
  const model = await tinyModel({ vocabulary: 257, bos: 256 });
  let armed = false;
  const real = model[method].bind(model) as (...given: unknown[]) => State;
  for (const name of ["advance", "advanceAll"] as const) {
    const own = name === method ? real : (model[name].bind(model) as typeof real);
    const value = (...given: unknown[]): State => {
      if (name === method && armed) {
        armed = false;
        throw new Error("no room");
      }
      return own(...given);
    };
    Object.defineProperty(model, name, { value });
  }
  Object.defineProperty(model, "segmentsAtOnce", { value: 3 });
  return { model, arm: () => (armed = true) };
}

describe("several segments at once", () => {
  same(undefined);

  it("what a session by the recipe has read", async () => {
    await using model = await Memformer.create({ preset: "tiny", precision: "bfloat16", device: "cpu" });
    expect(model.segmentsAtOnce).to.equal(1); // on a CPU
    const T = model.config.segmentLength,
      lengths = [2 * T + 3, 7 * T, T - 3];
    expect(await read(model, 3, lengths)).to.deep.equal(await read(model, 1, lengths));
  });

  for (const method of ["advance", "advanceAll"] as const)
    it(`leave the session whole when ${method} fails`, async () => {
      const { model: made, arm } = await failing(method);
      await using model = made;
      const T = model.config.segmentLength,
        text = Int32Array.from({ length: 8 * T + 1 }, (_, i) => (3 * i) % 256);
      using alone = await model.session();
      await alone.read(text);
      for (const onAbort of ["discard", "commit"] as const) {
        using session = await model.session();
        const part = method === "advance" ? T : 3 * T;
        await session.read(text.subarray(0, T));
        arm();
        expect(await failure(session.read(text.subarray(T, T + part), { onAbort }))).to.match(/no room/);
        const kept = onAbort === "commit" && method === "advance" ? T : 0; // its tokens were taken in
        expect(session.position).to.equal(T + kept);
        await session.read(text.subarray(T + kept, T + kept + 1));
        await session.read(text.subarray(T + kept + 1));
        expect(Buffer.from(await session.save())).to.deep.equal(Buffer.from(await alone.save()));
      }
    });

  it("are not read so by a model that has an advance of its own", async () => {
    await using model = await Memformer.create({ preset: "tiny" });
    let calls = 0;
    const advance = model.advance.bind(model);
    const value = (...given: Parameters<typeof advance>): State => ((calls += 1), advance(...given));
    Object.defineProperty(model, "advance", { value });
    Object.defineProperty(model, "segmentsAtOnce", { value: 2 });
    using session = await model.session();
    await session.read(new Int32Array(4 * model.config.segmentLength));
    expect(calls).to.equal(4);
  });

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
describeOnGpu("on a GPU, several segments at once", () => {
  same(GPU);

  for (const architecture of ["encoder-decoder", "decoder"] as const)
    it(`what a session of ${architecture} has read, at the size of wiki`, async () => {
      await using model = await Memformer.create({ preset: "wiki", architecture, precision: "bfloat16", device: GPU });
      const T = model.config.segmentLength,
        lengths = [24 * T, 8 * T + 5, 40 * T];
      expect(model.segmentsAtOnce).to.equal(8);
      const expected = await read(model, 1, lengths);
      for (let time = 0; time < 5; time++)
        expect(await read(model, 8, lengths), `time ${time}`).to.deep.equal(expected);
      expect(await model.capturedGraphs()).to.include({ refusal: "" });
    });
});
