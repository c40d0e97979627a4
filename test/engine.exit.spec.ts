import { expect } from "chai";
import { run as runUnder, start as startUnder, workerText, type Child, type Ended } from "./support/children.ts";
import { nodes } from "./support/nodes.ts";

/** Enqueues minutes of matrix products and says READY while the first ones run. */
const busy = `
  const long = (lib) => {
    let product = lib.applyOperator("aten::ones", [700, 700], "float32");
    const factor = product;
    for (let i = 0; i < 20000; i++) {
      const next = lib.applyOperator("aten::mm", product, factor);
      if (i > 0) product.dispose();
      product = next;
    }
    return product;
  };`;
const begin = `${busy}
  const product = long(lib);
  await new Promise((resolve) => setTimeout(resolve, 100));
  console.log("READY");`;

/** Without end in sight the queue takes minutes; what stops it takes a product's time. */
const SOON = 5000;

function expectEnd({ code, signal, output, sinceReady }: Ended, wanted: number): void {
  expect(signal, output).to.equal(null);
  expect(code, output).to.equal(wanted);
  expect(sinceReady, output).to.be.below(SOON);
}

for (const { path: node, version } of nodes())
  describe(`Node ${version}`, () => {
    const run = async (code: string): Promise<Ended> => runUnder(code, { node });
    const start = (code: string): Child => startUnder(code, { node });

    describe("a process that ends while the engine works", function () {
      this.timeout(120_000);

      it("by process.exit ends soon, with its code", async () => {
        expectEnd(await run(`${begin} process.exit(7);`), 7);
      });

      it("by process.exit while a promise waits for the engine ends soon", async () => {
        expectEnd(await run(`${begin} void product.read(); setTimeout(() => process.exit(3), 50);`), 3);
      });

      it("by itself, with nobody waiting, ends soon and well", async () => {
        expectEnd(await run(begin), 0);
      });

      it("stays alive as long as somebody waits for a result", async () => {
        const { code, output } = await run(`
        const x = lib.applyOperator("aten::ones", [2], "float32");
        console.log("READY");
        void x.data().then((data) => console.log("got", data.length));`);
        expect(code).to.equal(0);
        expect(output).to.match(/got 2/);
      });

      it("by an uncaught exception ends soon, with code 1 and the exception's text", async () => {
        const ended = await run(`${begin} throw new RangeError("nobody catches this");`);
        expectEnd(ended, 1);
        expect(ended.output).to.match(/RangeError: nobody catches this/);
      });

      it("by SIGTERM ends by that signal", async () => {
        const child = start(`${begin} void product.read();`);
        await child.ready;
        child.process.kill("SIGTERM");
        const { signal, sinceReady, output } = await child.ended;
        expect(signal, output).to.equal("SIGTERM");
        expect(sinceReady).to.be.below(SOON);
      });

      it("refuses further calls in an exit handler that runs later, and does not crash", async () => {
        const ended = await run(`${begin}
        process.on("exit", () => {
          try { lib.applyOperator("aten::ones", [1], "float32"); } catch (error) { console.log("refused", error.code); }
          product.dispose();
        });
        process.exit(0);`);
        expectEnd(ended, 0);
        expect(ended.output).to.match(/refused ERR_MEMFORMER_DISPOSED/);
      });
    });

    describe("a worker that ends while its engine works", function () {
      this.timeout(120_000);
      const text = workerText(`(lib, post) => { ${busy}
      const product = long(lib);
      post("busy");
      if (process.argv.includes("wait")) void product.read();
      if (process.argv.includes("exit")) setTimeout(() => process.exit(5), 30);
    }`);
      const spawnWorker = `
      const { Worker } = await import("node:worker_threads");
      const { once } = await import("node:events");
      const begin = async (...argv) => {
        const worker = new Worker(${JSON.stringify(text)}, { eval: true, argv });
        await once(worker, "message");
        return worker;
      };`;

      it("by terminate, at any moment, leaves the process whole", async () => {
        const delays = Array.from({ length: 5 }, () => Math.floor(Math.random() * 60));
        const ended = await run(`${spawnWorker}
        console.log("READY");
        for (const [i, delay] of ${JSON.stringify(delays)}.entries()) {
          const worker = await begin(i % 2 === 0 ? "wait" : "");
          await new Promise((resolve) => setTimeout(resolve, delay));
          const began = performance.now();
          await worker.terminate();
          console.log("terminated", performance.now() - began < ${SOON} ? "soon" : "late");
        }
        console.log("main:", (await lib.applyOperator("aten::ones", [3], "float32").data()).length);`);
        expect([ended.signal, ended.code], ended.output).to.deep.equal([null, 0]);
        expect(ended.output.match(/terminated soon/g), `after ${delays.join(", ")} ms`).to.have.length(5);
        expect(ended.output).to.match(/main: 3/);
      });

      it("by itself, or by process.exit inside it, leaves the process whole", async () => {
        for (const [how, code] of [
          ["", 0],
          ["exit", 5],
        ] as const) {
          const ended = await run(`${spawnWorker}
          const worker = await begin(${JSON.stringify(how)});
          console.log("READY");
          const [code] = await once(worker, "exit");
          console.log("worker:", code);
          console.log("main:", (await lib.applyOperator("aten::ones", [3], "float32").data()).length);`);
          expectEnd(ended, 0);
          expect(ended.output)
            .to.match(new RegExp(`worker: ${code}`))
            .and.match(/main: 3/);
        }
      });

      it("takes the process with it when the main thread exits, soon", async () => {
        expectEnd(await run(`${spawnWorker} await begin("wait"); console.log("READY"); process.exit(4);`), 4);
      });
    });

    describe("the addon in several threads of one process", function () {
      this.timeout(120_000);

      it("trains in main and two workers at once, each as if alone", async () => {
        const training = `async (lib) => {
        const model = await lib.Memformer.create({ preset: "tiny", vocabulary: 40, bos: 39 });
        const stream = new lib.RecallStream({ lanes: 2, segmentLength: 16, keys: 4, fillers: 4, maxLag: 2 });
        const losses = [];
        const trainer = new lib.Trainer(model, { steps: 3, horizon: 3, warmup: 0 });
        for await (const { loss } of trainer.run(stream)) losses.push(loss);
        await model.dispose();
        return losses;
      }`;
        const inWorker = workerText(`async (lib, post) => {
        post(await (${training})(lib));
      }`);
        const ended = await run(`
        const { Worker } = await import("node:worker_threads");
        const { once } = await import("node:events");
        const train = ${training};
        const workers = [1, 2].map(() => new Worker(${JSON.stringify(inWorker)}, { eval: true }));
        const messages = workers.map(async (worker) => (await once(worker, "message"))[0]);
        const all = await Promise.all([train(lib), ...messages]);
        console.log("READY", JSON.stringify(all));`);
        expectEnd(ended, 0);
        const [main, first, second] = JSON.parse(ended.output.slice(ended.output.indexOf("READY") + 6)) as number[][];
        expect(main).to.have.length(3);
        expect(first).to.deep.equal(main);
        expect(second).to.deep.equal(main);
      });

      it("survives a worker that ends before another begins", async () => {
        const short = workerText(`async (lib, post) => {
        const x = lib.applyOperator("aten::ones", [2], "float32");
        post((await x.data()).length);
      }`);
        const ended = await run(`
        const { Worker } = await import("node:worker_threads");
        const { once } = await import("node:events");
        for (let i = 0; i < 3; i++) {
          const worker = new Worker(${JSON.stringify(short)}, { eval: true });
          const [[size], [code]] = await Promise.all([once(worker, "message"), once(worker, "exit")]);
          console.log("worker", i, size, code);
        }
        console.log("READY");`);
        expectEnd(ended, 0);
        expect(ended.output).to.match(/worker 0 2 0\nworker 1 2 0\nworker 2 2 0/);
      });
    });
  });
