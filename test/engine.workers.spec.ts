import { expect } from "chai";
import { AdamW, openTokenizer, Random, Tensor, Trainer } from "../lib/index.ts";
import { isCompiled } from "./support/compiled.ts";
import { run, workerText, type Ended } from "./support/children.ts";
import { runModel } from "./support/runs.ts";
import { nodes } from "./support/nodes.ts";

const MiB = 2 ** 20;
const shape =
  '{ preset: "tiny", vocabulary: 18, bos: 17, width: 16, heads: 2, feedForward: 32, memorySlots: 4, segmentLength: 8, threads: 1 }';
const stream = "new lib.RecallStream({ lanes: 4, segmentLength: 8, keys: 4, fillers: 12, maxLag: 2 })";

/** Trains five steps, posting each; one of two leaves everything to the end of its thread. */
const training = workerText(`async (lib, post) => {
  const { workerData } = await import("node:worker_threads");
  const model = await lib.Memformer.create(${shape});
  const trainer = new lib.Trainer(model, { steps: 5, horizon: 3, warmup: 0 });
  post("begins");
  for await (const { loss } of trainer.run(${stream})) post(loss);
  if (workerData.disposes) {
    trainer.dispose();
    await model.dispose();
  }
}`);

/** How a worker ends: by itself, by terminate so many ms after its start, or by terminate after so many messages. */
type Fate =
  | { readonly by: "itself" }
  | { readonly by: "time"; readonly ms: number }
  | { readonly by: "message"; readonly count: number };

/**
 * Twenty fates, the same ones for the same seed: four workers end by themselves, eight at once or soon, eight in the
 * middle of their work.
 */
function fates(seed: number): Fate[] {
  const random = new Random(seed);
  return Array.from({ length: 20 }, (_, i) => {
    if (i % 5 === 0) return { by: "itself" };
    return i % 5 < 3
      ? { by: "time", ms: i % 5 === 1 ? 0 : random.below(1500) }
      : { by: "message", count: 1 + random.below(5) };
  });
}

/** Lets the fates happen, three workers at a time, and says what is left in the process after each round. */
const rounds = (seeds: readonly number[]): string => `
  const { Worker } = await import("node:worker_threads");
  const { once } = await import("node:events");
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const meet = async (fate, i) => {
    const worker = new Worker(${JSON.stringify(training)}, { eval: true, workerData: { disposes: i % 2 === 0 } });
    const losses = [], exit = once(worker, "exit");
    const enough = new Promise((resolve) => worker.on("message", (message) => {
      losses.push(message);
      if (losses.length === fate.count) resolve();
    }));
    if (fate.by === "itself") return { code: (await exit)[0], losses };
    await (fate.by === "time" ? sleep(fate.ms) : enough);
    await worker.terminate();
    return { code: (await exit)[0], losses };
  };
  const round = async (fates) => {
    const ends = [], waiting = [...fates.entries()];
    await Promise.all([1, 2, 3].map(async () => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) ends[next[0]] = await meet(next[1], next[0]);
    }));
    return ends;
  };
  const left = async () => {
    for (let i = 0; i < 5; i++) {
      await sleep(20);
      gc();
    }
    const { tensors, hostBytes } = lib.memoryUsage();
    return { tensors, hostBytes, rss: process.memoryUsage.rss() };
  };
  lib.configureRuntime({ threads: 1 });
  const results = [];
  for (const fates of ${JSON.stringify(seeds.map(fates))}) results.push({ ends: await round(fates), left: await left() });`;

interface Round {
  readonly ends: readonly { readonly code: number; readonly losses: readonly (number | string)[] }[];
  readonly left: { readonly tensors: number; readonly hostBytes: number; readonly rss: number };
}

function said<T>({ code, signal, output }: Ended): T {
  expect([signal, code], output).to.deep.equal([null, 0]);
  return JSON.parse(output.slice(output.indexOf("READY") + 6)) as T;
}

for (const { path: node, version } of nodes())
  describe(`workers under Node ${version}`, function () {
    this.timeout(300_000);
    const under = async (code: string): Promise<Ended> => run(code, { node, flags: ["--expose-gc"] });

    it("that train and end at any moment leave the process whole and nothing behind, round after round", async () => {
      const seeds = process.env["MEMFORMER_SLOW_TESTS"] === "1" ? Array.from({ length: 12 }, (_, i) => i) : [0, 1, 2];
      const made = said<Round[]>(await under(`${rounds(seeds)} console.log("READY", JSON.stringify(results));`));
      const whole = made[0]!.ends[0]!.losses;
      expect(whole, "of a worker that ended by itself").to.have.length(6);
      for (const [r, { ends, left }] of made.entries()) {
        for (const [i, fate] of fates(seeds[r]!).entries()) {
          const { code, losses } = ends[i]!,
            where = `round ${r}, worker ${i}, ${JSON.stringify(fate)}`;
          // Node's code of a worker that is terminated is 1, but 0 where it had not begun yet or was over already.
          expect(code, where).to.be.oneOf(
            fate.by === "itself" ? [0] : losses.length === 0 || losses.length === 6 ? [0, 1] : [1],
          );
          expect(losses, where).to.deep.equal(whole.slice(0, losses.length));
          if (fate.by === "itself") expect(losses, where).to.have.length(6);
        }
        expect({ tensors: left.tensors, hostBytes: left.hostBytes }, `after round ${r}`).to.deep.equal({
          tensors: 0,
          hostBytes: 0,
        });
      }
      // The first round fills caches: the heap of the main thread, code, the allocator's shelves.
      const growth = made.at(-1)!.left.rss - made[0]!.left.rss;
      expect(growth / MiB, made.map(({ left }) => (left.rss / MiB).toFixed(0)).join(", ")).to.be.below(16);
    });

    it("that are terminated inside a call free what its handle should have held", async () => {
      // Nearly all of the loop's time goes by before the handle is made, and in a worker that is ending none can be
      // made.
      const copying = workerText(`async (lib, post) => {
      const numbers = new Float32Array(2 ** 20);
      lib.Tensor.from(numbers, [2 ** 20]).dispose();
      post("begins");
      for (;;) lib.Tensor.from(numbers, [2 ** 20]).dispose();
    }`);
      const left = said<Round["left"]>(
        await under(`${rounds([])}
      for (let i = 0; i < 5; i++) {
        const worker = new Worker(${JSON.stringify(copying)}, { eval: true });
        await once(worker, "message");
        await sleep(20);
        await worker.terminate();
      }
      console.log("READY", JSON.stringify(await left()));`),
      );
      expect(left).to.deep.include({ tensors: 0, hostBytes: 0 });
    });

    it("that come and go change no number of the main thread's training", async () => {
      const main = `
      const trained = async () => {
        const model = await lib.Memformer.create(${shape});
        const trainer = new lib.Trainer(model, { steps: 40, horizon: 3, warmup: 0 });
        const losses = [];
        for await (const { loss } of trainer.run(${stream})) losses.push(loss);
        trainer.dispose();
        await model.dispose();
        return losses;
      };`;
      const { alone, beside, stayed } = said<{ alone: number[]; beside: number[]; stayed: number[] }>(
        await under(`${rounds([])} ${main}
      const kept = lib.applyOperator("aten::full", [3], 0.5, "float32");
      const alone = await trained(), beside = [];
      let over = false;
      const others = round(${JSON.stringify(fates(5).slice(0, 10))}).then(() => { over = true; });
      while (!over) beside.push(...await trained());
      await others;
      console.log("READY", JSON.stringify({ alone, beside, stayed: [...await kept.data()] }));`),
      );
      expect(alone).to.have.length(40);
      expect(beside.length).to.be.at.least(40);
      for (let from = 0; from < beside.length; from += 40) expect(beside.slice(from, from + 40)).to.deep.equal(alone);
      expect(stayed).to.deep.equal([0.5, 0.5, 0.5]);
    });

    it("are not needed for two graphs of modules, the sources and what is compiled of them, to share one engine", async () => {
      const [load, other] = isCompiled
        ? [`(await import("tsx/esm/api")).register();`, "../lib/index.ts"]
        : ["", "../dist/index.js"];
      const made = said<{ same: boolean; sum: number[]; tensors: number[]; refused: string }>(
        await under(`
      ${load}
      const other = await import(${JSON.stringify(new URL(other, import.meta.url).href)});
      const x = lib.applyOperator("aten::ones", [2], "float32"), y = other.applyOperator("aten::ones", [2], "float32");
      let refused = "";
      try { other.applyOperator("aten::neg", x); } catch (error) { refused = error.message; }
      const sum = [...await x.data(), ...await y.data()];
      console.log("READY", JSON.stringify({ same: other.Tensor === lib.Tensor, sum, tensors: [lib.memoryUsage().tensors, other.memoryUsage().tensors], refused }));`),
      );
      expect(made).to.deep.include({ same: false, sum: [1, 1, 1, 1], tensors: [2, 2] });
      expect(made.refused).to.match(/must be a tensor/);
    });
  });

describe("objects that hold a handle", () => {
  it("refuse to be posted to another thread, and say so", async () => {
    await using model = await runModel({ vocabulary: 257, bos: 256 });
    using tensor = Tensor.from(Float32Array.of(1), [1]);
    using session = await model.session(await openTokenizer("bytes"));
    using optimizer = new AdamW(model),
      trainer = new Trainer(model);
    const { port1, port2 } = new MessageChannel();
    for (const object of [tensor, model, session, optimizer, trainer, { nested: [tensor] }]) {
      expect(() => {
        port1.postMessage(object);
      }, object.constructor.name)
        .to.throw(DOMException, /belongs to the thread that made it/)
        .with.property("name", "DataCloneError");
    }
    port1.close();
    port2.close();
    expect(structuredClone({ data: await tensor.data() }).data).to.deep.equal(Float32Array.of(1));
  });
});
