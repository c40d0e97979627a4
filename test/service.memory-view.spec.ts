/** What a view tells of a session's memory, against plain arithmetic; and that the session does not notice it. */
import { expect } from "chai";
import { setTimeout as wait } from "node:timers/promises";
import {
  type Memformer,
  memoryUsage,
  PADDING,
  Scheduler,
  Session,
  synchronize,
  Tensor,
  type CreateOptions,
  type SegmentReached,
  type SessionModel,
} from "../lib/index.ts";
import { writers, perturb, tinyModel } from "./support/models.ts";
import { MemoryView } from "../lib/service/memory-view.ts";
import type { MemoryPage, MemoryRow } from "../lib/service/memory-page.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";
import { says } from "./support/scripted.ts";
import { failure } from "./support/failure.ts";

const T = 6,
  M = 3,
  D = 16,
  H = 2;
const text = "Call me Ishmael. Some years ago, never mind how long precisely";

async function made(options: CreateOptions = {}): Promise<Memformer> {
  const model = await tinyModel({ vocabulary: 257, bos: 256, ...options });
  await perturb(model, 0.3);
  return model;
}

async function rowsOf(view: MemoryView, ask: Parameters<MemoryView["page"]>[0] = {}): Promise<MemoryRow[]> {
  await view.settled();
  const page = view.page(ask);
  if (!page.available) throw new Error(page.reason);
  return [...page.segments];
}

function told(page: MemoryPage): Extract<MemoryPage, { available: true }> {
  if (!page.available) throw new Error(page.reason);
  return page;
}

describe("a memory view", function () {
  this.timeout(60_000);

  for (const architecture of ["encoder-decoder", "decoder"] as const) {
    it(`tells change and norm as the states give them, and the text: ${architecture}`, async () => {
      await using model = await made({ architecture, forgetting: "none" });
      using session = await Session.open(model);
      const states: number[][] = [];
      const numbers = async (tensors: readonly Tensor[]): Promise<number[]> => [
        ...((await tensors[0]!.data()) as Float64Array),
      ];
      const reading: Promise<unknown>[] = [];
      session.watch({
        reached: ({ before, after }) => {
          const at = states.length;
          states.push([], []);
          reading.push(numbers(before).then((all) => (states[at] = all)));
          reading.push(numbers(after).then((all) => (states[at + 1] = all)));
        },
        takenBack: () => undefined,
      });
      using view = new MemoryView(session);
      await session.read(text);
      await Promise.all(reading);
      const rows = await rowsOf(view);
      expect(rows.length).to.equal(Math.floor(text.length / T));
      for (const [t, row] of rows.entries()) {
        const [before, after] = [states[2 * t]!, states[2 * t + 1]!];
        expect(row.segment).to.equal(t);
        // An encoder writes the segment before the one under way, the first time BOS alone.
        const start = architecture === "decoder" ? t * T : Math.max(0, (t - 1) * T);
        const end = architecture === "decoder" || t > 0 ? start + T : 0;
        expect([row.start, row.end, row.tokens.join("")]).to.deep.equal([start, end, text.slice(start, end)]);
        for (let m = 0; m < M; m++) {
          const length = (vector: (d: number) => number): number =>
            Math.hypot(...Array.from({ length: D }, (_, d) => vector(m * D + d)));
          const [was, is] = [length((i) => before[i]!), length((i) => after[i]!)];
          expect(row.norm![m]).to.be.closeTo(is, 1e-4);
          expect(row.change![m]).to.be.closeTo(length((i) => after[i]! - before[i]!) / (was + is), 1e-4);
        }
      }
    });
  }

  for (const constantSlots of [0, 2]) {
    it(`tells the slots that a token reads, the mean of layers and heads: ${constantSlots} constant slots`, async () => {
      await using model = await made({ constantSlots });
      // Every branch adds nothing: each layer reads the memory with the embedded tokens.
      for (const { name, shape } of model.parameters) {
        if (!/^encoder\.\d\.(self_attention\.out|memory_read\.out|feed_forward\.down)\./.test(name)) continue;
        using nothing = Tensor.from(new Float64Array(shape.reduce((product, size) => product * size, 1)), shape);
        model.assign(name, nothing);
      }
      const of = async (name: string): Promise<Float64Array> => {
        using parameter = model.parameter(name);
        return (await parameter.data()) as Float64Array;
      };
      using session = await Session.open(model);
      const segments: { source: Int32Array; memory: Float64Array; x: Float32Array }[] = [];
      const seeing: Promise<unknown>[] = [];
      session.watch({
        reached: ({ segment, before }) => {
          const kept = before.map((tensor) => tensor.detach());
          const uploaded = model.upload({
            batch: 1,
            length: T,
            ...segment,
            reset: Uint8Array.of(segment.first ? 1 : 0),
          });
          const look = async (): Promise<void> => {
            const seen = await model.observe(uploaded, kept);
            const memory = (await kept[0]!.data()) as Float64Array;
            segments.push({ source: segment.source, memory, x: seen.get("encoder.embedding.stream")!.data });
          };
          seeing.push(look());
        },
        takenBack: () => undefined,
      });
      using view = new MemoryView(session, { slotsPerToken: 4 });
      await session.read(text.slice(0, 3 * T));
      await Promise.all(seeing);
      const rows = await rowsOf(view);
      const constants = constantSlots === 0 ? [] : rowsOfNumbers(await of("memory.constants"));
      for (const [t, { source, memory, x }] of segments.entries()) {
        const count = source.filter((token) => token !== PADDING).length,
          slots = [...rowsOfNumbers(memory), ...constants];
        const shares = Array.from({ length: count }, () => new Float64Array(slots.length));
        for (const layer of [0, 1]) {
          const part = async (name: string): Promise<Float64Array> => of(`encoder.${layer}.memory_read.${name}`);
          const [wq, bq, wkv, bkv] = await Promise.all(
            ["query.weight", "query.bias", "key_value.weight", "key_value.bias"].map(part),
          );
          const [g, b, mg, mb] = await Promise.all(
            ["norm.weight", "norm.bias", "memory_norm.weight", "memory_norm.bias"].map(part),
          );
          const keys = slots.map((slot) => linear(normed(slot, mg!, mb!), wkv!, bkv!));
          for (let n = 0; n < count; n++) {
            const query = linear(normed(rowsOfNumbers(x)[n]!, g!, b!), wq!, bq!);
            for (let h = 0; h < H; h++) {
              const E = D / H,
                heads = Array.from({ length: E }, (_, e) => h * E + e);
              const logits = keys.map((key) => heads.reduce((sum, i) => sum + query[i]! * key[i]!, 0) / Math.sqrt(E));
              const sum = logits.reduce((total, logit) => total + Math.exp(logit), 0);
              logits.forEach((logit, m) => (shares[n]![m]! += Math.exp(logit) / sum / (2 * H)));
            }
          }
        }
        const { reads } = rows[t]!;
        expect(reads!.slots.length).to.equal(count);
        for (let n = 0; n < count; n++) {
          const wanted = [...shares[n]!].map((share, slot) => ({ share, slot })).sort((a, b) => b.share - a.share);
          const kept = Math.min(4, slots.length);
          expect(reads!.slots[n]).to.deep.equal(wanted.slice(0, kept).map(({ slot }) => slot));
          reads!.weights[n]!.forEach((weight, k) => expect(weight).to.be.closeTo(wanted[k]!.share, 2e-4));
        }
      }
    });
  }

  for (const writer of writers) {
    for (const architecture of ["encoder-decoder", "decoder"] as const) {
      it(`tells what each slot did, as \`diagnose\` does: ${writer}, ${architecture}`, async () => {
        await using model = await made({ architecture, writer, memorySlots: 12, writerSharpness: 3 });
        using session = await Session.open(model);
        const wanted: Promise<string>[] = [];
        session.watch({
          reached: ({ segment, before }) => {
            const uploaded = model.upload({
              batch: 1,
              length: T,
              ...segment,
              reset: Uint8Array.of(segment.first ? 1 : 0),
            });
            wanted.push(
              model.observe(uploaded, before).then((seen) => {
                const { data } = seen.get("writer.self")!; // (1, H, 12)
                return Array.from({ length: 12 }, (_, m) => {
                  const weight = (data[m]! + data[12 + m]!) / 2;
                  return weight >= 0.9 ? "l" : weight <= 0.1 ? "o" : "m";
                }).join("");
              }),
            );
          },
          takenBack: () => undefined,
        });
        using view = new MemoryView(session);
        await session.read(text);
        const classes = (await rowsOf(view)).map((row) => row.classes);
        expect(classes).to.deep.equal(await Promise.all(wanted));
        expect(new Set(classes.join("")).size, "classes that occur").to.be.at.least(2);
      });
    }
  }

  it("does not change a bit of what the session makes, alone and in a scheduler", async () => {
    for (const options of [
      { architecture: "encoder-decoder" },
      { architecture: "decoder" },
      { architecture: "decoder", precision: "bfloat16" },
      { architecture: "encoder-decoder", writerSteps: 2, memory: false, constantSlots: 1 },
    ] as const) {
      await using model = await made({ precision: "float32", ...options });
      const turns = async (watched: boolean, scheduled: boolean): Promise<string> => {
        using session = await Session.open(model),
          scheduler = new Scheduler(model, { slots: 2 });
        using view = watched ? new MemoryView(session) : undefined;
        const options = { seed: 1, maxTokens: 40, stop: "q" };
        let said = "";
        await (scheduled ? scheduler.read(session, text) : session.read(text));
        for await (const piece of scheduled ? scheduler.generate(session, options) : session.generate(options))
          said += piece;
        await view?.settled();
        if (view !== undefined) expect((await rowsOf(view)).length).to.equal(Math.floor(session.position / T));
        return said + Buffer.from(await session.save()).toString("hex");
      };
      const plain = await turns(false, false);
      for (const scheduled of [false, true]) expect(await turns(true, scheduled)).to.equal(plain);
    }
  });

  it("takes back what the session takes back", async () => {
    await using model = await made({ architecture: "decoder" });
    using session = await Session.open(model),
      view = new MemoryView(session);
    await session.read(text.slice(0, 2 * T));
    await view.settled();
    const { revision } = told(view.page());
    // Held back over three segments as the beginning of a stop string, and not handed out.
    const stop = "0123456789abcdefghijXYZ",
      said = `no${stop.slice(0, 19)}!`;
    const aborted = new AbortController();
    const pieces = session.generatePieces({
      maxTokens: 100,
      stop,
      signal: aborted.signal,
      logitsProcessor: (logits, { position }) => {
        logits.fill(-Infinity);
        logits[said.charCodeAt((position - 2 * T) % said.length)] = 0;
        if (position === 2 * T + 20) aborted.abort(new Error("enough"));
      },
    });
    let reached = 0;
    session.watch({ reached: () => reached++, takenBack: () => undefined });
    const left = await failure(async () => {
      for await (const piece of pieces) void piece;
    });
    expect([left.message, session.position, reached]).to.deep.equal(["enough", 2 * T + 2, 3]);
    expect((await rowsOf(view)).map(({ segment }) => segment)).to.deep.equal([0, 1]);
    await says(session, stop.slice(0, 19), { stop, maxTokens: 19 });
    const rows = await rowsOf(view);
    expect(rows.map(({ tokens }) => tokens.join("")).join("")).to.equal(
      `${text.slice(0, 2 * T)}no${stop.slice(0, 19)}`.slice(0, rows.length * T),
    );
    // A reading that fails is none.
    async function* failing(): AsyncGenerator<string> {
      yield "x".repeat(5 * T);
      throw new Error("gone");
    }
    await failure(session.read(failing()));
    expect(await rowsOf(view)).to.have.lengthOf(rows.length);
    session.reset();
    expect(await rowsOf(view)).to.deep.equal([]);
    expect(told(view.page()).revision).to.be.above(revision);
  });

  it("keeps the latest segments within its limits, says what it dropped, and tells them by and by", async () => {
    await using model = await made({ architecture: "decoder" });
    using session = await Session.open(model),
      view = new MemoryView(session, { segments: 5 }),
      small = new MemoryView(session, { bytes: 6000 });
    await session.read("x".repeat(12 * T));
    const rows = await rowsOf(view);
    expect(rows.map(({ segment }) => segment)).to.deep.equal([7, 8, 9, 10, 11]);
    const first = told(view.page({ limit: 2 }));
    expect([first.dropped, first.next, first.more, first.segments.length]).to.deep.equal([7, 9, true, 2]);
    const rest = told(view.page({ since: first.next }));
    expect([rest.segments.map(({ segment }) => segment), rest.more]).to.deep.equal([[9, 10, 11], false]);
    await small.settled();
    expect(small.bytes).to.be.at.most(6000);
    expect(told(small.page()).dropped).to.be.above(2);
    expect((await failure(async () => new MemoryView(session, { segments: 0 }))).code).to.equal("ERR_MEMFORMER_CONFIG");
  });

  it("waits for what is asked for", async () => {
    await using model = await made({ architecture: "decoder" });
    using session = await Session.open(model),
      view = new MemoryView(session);
    const began = Date.now();
    await view.changed({ seconds: 0.05 });
    expect(Date.now() - began).to.be.at.least(45);
    const waiting = view.changed({ since: 1, seconds: 30 });
    await session.read("x".repeat(2 * T));
    await waiting;
    expect(told(view.page({ since: 1 })).segments).to.have.lengthOf(1);
    const aborted = new AbortController(),
      left = view.changed({ since: 9, seconds: 30, signal: aborted.signal });
    aborted.abort();
    await left;
    const ended = view.changed({ since: 9, seconds: 30 });
    view.dispose();
    await ended;
  });

  it("goes on in a restored session", async () => {
    await using model = await made({ architecture: "decoder" });
    using session = await Session.open(model);
    using view = new MemoryView(session);
    await session.read(`${text.slice(0, 3 * T - 1)}ü`); // half a character in the third segment
    const saved = await session.save();
    session.dispose();
    using restored = await Session.restore(model, saved);
    view.attach(restored);
    await restored.read("x".repeat(2 * T));
    const rows = await rowsOf(view);
    expect(rows.map(({ segment }) => segment)).to.deep.equal([0, 1, 2, 3, 4]);
    expect(rows.map(({ tokens }) => tokens.join("")).join("")).to.match(/ü/);
  });

  it("says of a model whose state is no memory that there is nothing to see", async () => {
    await using model = await made();
    const other: SessionModel = {
      config: model.config,
      device: model.device,
      stateLayout: [{ name: "hidden", shape: [D], dtype: "float32", differentiable: true }],
      initialState: () => [Tensor.from(new Float32Array(D), [1, D])],
      upload: (segment) => model.upload(segment),
      advance: () => [Tensor.from(new Float32Array(D), [1, D])],
      logits: () => Tensor.from(new Float32Array(257), [1, 257]),
      weightsHash: async () => model.weightsHash(),
    };
    using session = await Session.open(other),
      view = new MemoryView(session);
    await session.read("x".repeat(2 * T));
    expect(view.page()).to.deep.equal({
      available: false,
      reason: "This model's state (hidden) is not one memory of slots with a writer, so there is nothing to show.",
    });
    await view.changed({ seconds: 30 });
  });

  it("keeps a watcher that throws from the session", async () => {
    await using model = await made();
    using session = await Session.open(model);
    const warned = new Promise<Error>((resolve) => process.once("warning", resolve));
    let seen: SegmentReached | undefined;
    const leave = session.watch({
      reached: (segment) => {
        seen = segment;
        throw new Error("a watcher's own");
      },
      takenBack: () => undefined,
    });
    await session.read("x".repeat(T));
    expect((await warned).message).to.equal("a watcher's own");
    expect(seen!.position).to.equal(0);
    leave();
    seen = undefined;
    await session.read("x".repeat(T));
    expect(seen).to.equal(undefined);
  });

  for (const architecture of ["encoder-decoder", "decoder"] as const) {
    it(`tells characters whole that lie over a segment's end: ${architecture}`, async () => {
      await using model = await made({ architecture });
      using session = await Session.open(model),
        view = new MemoryView(session);
      const many = "aé日😀".repeat(12);
      await session.read(many);
      const told = (await rowsOf(view)).map(({ tokens }) => tokens.join("")).join("");
      expect(told.length).to.be.above(40);
      expect(many.slice(0, told.length)).to.equal(told);
    });
  }

  it("frees every state at once: looked at, given up, taken back, left", async () => {
    await using model = await made({ architecture: "decoder", memorySlots: 256, precision: "float32" });
    const round = async (): Promise<void> => {
      using session = await Session.open(model);
      const view = new MemoryView(session, { segments: 4 });
      await session.read("x".repeat(20 * T));
      await view.settled();
      await session.read("x".repeat(20 * T)); // given up while they wait
      session.reset();
      await session.read("x".repeat(3 * T));
      view.dispose();
      view.dispose();
    };
    await round();
    const atRest = await memoryAtRest();
    await round();
    await round();
    await wait(100); // the look that was under way
    await synchronize();
    // Nothing waits for the garbage collector: a state left behind is 16 KiB.
    expect(memoryUsage().hostBytes - atRest.hostBytes).to.be.below(16 * 1024);
    expect((await memoryAtRest()).tensors).to.equal(atRest.tensors);
  });
});

function rowsOfNumbers(all: ArrayLike<number>): number[][] {
  return Array.from({ length: all.length / D }, (_, i) => Array.from({ length: D }, (_, d) => all[i * D + d]!));
}

function normed(x: readonly number[], gain: ArrayLike<number>, bias: ArrayLike<number>): number[] {
  const mean = x.reduce((sum, value) => sum + value, 0) / D,
    variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / D;
  return x.map((value, d) => ((value - mean) / Math.sqrt(variance + 1e-5)) * gain[d]! + bias[d]!);
}

/** The first D outputs. */
function linear(x: readonly number[], weight: ArrayLike<number>, bias: ArrayLike<number>): number[] {
  return Array.from({ length: D }, (_, o) => x.reduce((sum, value, i) => sum + value * weight[o * D + i]!, bias[o]!));
}
