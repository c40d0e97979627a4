import { expect } from "chai";
import {
  ABLATIONS,
  evaluate,
  evaluationPass,
  Memformer,
  openTokenizer,
  Random,
  synchronize,
  tokensInMemory,
  type CreateOptions,
  type Evaluation,
  type TokenStream,
} from "../lib/index.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";

/** Documents of random bytes: some of one segment, one of many, lanes that idle at the end. */
async function pass(segmentLength: number, lengths: readonly number[], lanes = 3): Promise<TokenStream> {
  const random = new Random(2),
    tokenizer = await openTokenizer("bytes");
  const documents = lengths.map((length) => Int32Array.from({ length }, () => 97 + random.below(26)));
  return evaluationPass(tokensInMemory(documents, tokenizer), { lanes, segmentLength });
}

const lengths = [40, 7, 23, 61, 12, 30, 6, 1, 90, 200, 33];

describeOnGpu("evaluation on the GPU", function () {
  this.timeout(600_000);

  /** The same weights on both. */
  async function both<T>(options: CreateOptions, body: (cpu: Memformer, gpu: Memformer) => Promise<T>): Promise<T> {
    const given = { vocabulary: 257, bos: 256, seed: 3, ...options };
    await using cpu = await tinyModel({ ...given, device: "cpu" });
    await using gpu = await tinyModel({ ...given, device: GPU });
    for (const model of [cpu, gpu]) await perturb(model, 0.2);
    return await body(cpu, gpu); // both live until it has ended
  }

  function expectSame(found: Evaluation, expected: Evaluation, tolerance: number, title: string): void {
    expect(found.tokens, title).to.equal(expected.tokens);
    expect(found.nats, title).to.be.closeTo(expected.nats, tolerance * expected.nats);
    for (const name of ABLATIONS) {
      const nats = expected.ablations[name]!.nats;
      expect(found.ablations[name]!.nats, `${title}, ${name}`).to.be.closeTo(nats, tolerance * nats);
    }
  }

  for (const architecture of ["encoder-decoder", "encoder", "decoder"] as const) {
    it(`scores as the CPU does with every ablation, whatever goes in one step: ${architecture}`, async () => {
      await both({ architecture }, async (cpu, gpu) => {
        const expected = await evaluate(cpu, await pass(6, lengths));
        for (const segmentsPerStep of [undefined, 1, 2, 5]) {
          expectSame(
            await evaluate(gpu, await pass(6, lengths), { segmentsPerStep }),
            expected,
            1e-12,
            `${architecture}, ${segmentsPerStep}`,
          );
        }
      });
    });
  }

  it("records one step, whatever is padded, and scores the same when it replays it", async () => {
    await both({}, async (_, gpu) => {
      const stream = await pass(6, lengths);
      Object.assign(stream, { ended: undefined }); // rows of lanes that have ended stay: one shape
      const once = await evaluate(gpu, stream, { segmentsPerStep: 1 });
      const { steps, refusal } = await gpu.capturedGraphs();
      expect(refusal).to.equal("");
      // The first step holds nothing frozen yet; from the second on all are alike, with padding and without.
      expect(steps).to.equal(1);
      const again = async (title: string): Promise<void> => {
        const same = await pass(6, lengths);
        Object.assign(same, { ended: undefined });
        expectSame(await evaluate(gpu, same, { segmentsPerStep: 1 }), once, 1e-12, title);
      };
      await again("again");
      gpu.captureGraphs(false);
      await again("not recorded");
    });
  });

  it("is within bfloat16's reach of the CPU", async () => {
    // Heads that the GPU's kernels take, and no more than a CPU computes in bfloat16 in seconds.
    const options = {
      preset: "tiny",
      vocabulary: 257,
      bos: 256,
      width: 64,
      heads: 2,
      precision: "bfloat16",
      seed: 1,
    } as const;
    await using cpu = await Memformer.create({ ...options, device: "cpu" });
    await using gpu = await Memformer.create({ ...options, device: GPU });
    const { segmentLength } = cpu.config,
      long = lengths.map((length) => length * 3);
    expectSame(
      await evaluate(gpu, await pass(segmentLength, long)),
      await evaluate(cpu, await pass(segmentLength, long)),
      2 ** -8,
      "bfloat16",
    );
  });

  it("ends soon after a signal, with its reason", async () => {
    await using gpu = await tinyModel({ vocabulary: 257, bos: 256, device: GPU });
    const controller = new AbortController(),
      reason = new Error("enough"),
      stream = await pass(6, [200_000], 2);
    const work = failure(evaluate(gpu, stream, { signal: controller.signal, segmentsPerStep: 8 }));
    setTimeout(() => {
      controller.abort(reason);
    }, 500);
    const began = performance.now();
    expect(await work).to.equal(reason);
    await synchronize();
    expect(performance.now() - began).to.be.below(5_000);
  });
});
