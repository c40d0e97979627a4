import { expect } from "chai";
import { run, workerText } from "./support/children.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";

const TOKENS = 2000,
  WORKERS = 16;

/** Reads a text and goes on, three times; posts what came each time. */
const reading = workerText(`async (lib, post) => {
  const model = await lib.Memformer.create({
    vocabulary: 257, bos: 256, width: 128, heads: 2, feedForward: 256, memorySlots: 16, segmentLength: 32,
    encoderLayers: 2, decoderLayers: 2, precision: "bfloat16", device: ${JSON.stringify(GPU)}, seed: 5,
  });
  for (let round = 0; round < 3; round++) {
    const session = await model.session(), texts = [];
    await session.read(Int32Array.from({ length: ${TOKENS} }, (_, i) => (i * i * 7 + 3 * round) % 256));
    for await (const text of session.generate({ maxTokens: 48, temperature: 1, seed: round })) texts.push(text);
    session.dispose();
    post(texts.join(""));
  }
  await model.dispose();
}`);

/** Gives what `count` workers side by side have posted. */
const wave = `
  const { Worker } = await import("node:worker_threads");
  const { once } = await import("node:events");
  const wave = async (count) => Promise.all(Array.from({ length: count }, async () => {
    const worker = new Worker(${JSON.stringify(reading)}, { eval: true }), posted = [];
    worker.on("message", (message) => posted.push(message));
    const [code] = await once(worker, "exit");
    return { code, posted };
  }));`;

describeOnGpu("workers on one GPU", function () {
  this.timeout(300_000);

  it("compute what one computes alone, sixteen of them at a time, and again when those have ended", async () => {
    const { code, output } = await run(`${wave}
      const waves = [await wave(1), await wave(${WORKERS}), await wave(${WORKERS})];
      console.log("READY", JSON.stringify(waves));`);
    expect(code, output).to.equal(0);
    const [first, ...others] = JSON.parse(output.slice(output.indexOf("READY") + 6)) as {
      code: number;
      posted: string[];
    }[][];
    const alone = first![0]!;
    expect(alone.code).to.equal(0);
    expect(alone.posted).to.have.length(3);
    expect(new Set(alone.posted).size, "rounds differ").to.equal(3);
    for (const workers of others) for (const worker of workers) expect(worker).to.deep.equal(alone);
  });
});
