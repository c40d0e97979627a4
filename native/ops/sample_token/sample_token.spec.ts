/**
 * A draw from logits, in C++, in TypeScript and composed of ATen's operators, against a plain walk through all tokens
 * in order.
 */
import { expect } from "chai";
import fc from "fast-check";
import { callOperator, Random, sampler, Tensor, type NumberArray, type SampleOptions } from "../../../lib/index.ts";
import { describeOnGpu, toGpu } from "../../../test/support/gpu.ts";

const ALL = Number.MAX_SAFE_INTEGER;

/** The token that `u` of [0, 1) draws: all are sorted, what is kept is summed one after the other. */
function walked(
  logits: readonly number[],
  { temperature = 1, topK = Infinity, topP = 1 }: SampleOptions,
  u: number,
): number {
  const order = logits.map((_, token) => token).sort((a, b) => logits[b]! - logits[a]!);
  if (temperature === 0) return order[0]!;
  const kept = order.slice(0, Math.min(topK, order.length)),
    top = logits[kept[0]!]!;
  const mass = kept.map((token) => Math.exp((logits[token]! - top) / temperature));
  const total = mass.reduce((sum, value) => sum + value, 0);
  let nucleus = 0,
    held = 0;
  while (nucleus < kept.length && (nucleus === 0 || held < topP * total)) held += mass[nucleus++]!;
  let point = u * held;
  for (let i = 0; i < nucleus; i++) {
    point -= mass[i]!;
    if (point < 0) return kept[i]!;
  }
  return kept[nucleus - 1]!;
}

interface Drawing extends SampleOptions {
  readonly tokens?: number;
  readonly also?: number;
}

/** Rows of (B, V) logits, one draw each. */
async function drawn(
  name: string,
  rows: readonly (readonly number[])[],
  us: readonly number[],
  options: Drawing = {},
  dtype: "float32" | "float64" = "float64",
  place: (tensor: Tensor) => Tensor = (tensor) => tensor,
): Promise<number[]> {
  const { temperature = 1, topK = 0, topP = 1, tokens = ALL, also = -1 } = options;
  const array = dtype === "float32" ? Float32Array : Float64Array;
  using logits = place(Tensor.from(array.from(rows.flat()), [rows.length, rows[0]?.length ?? 0]));
  using draws = place(Tensor.from(Float64Array.from(us), [us.length]));
  using ids = callOperator(name, logits, draws, temperature, topK === Infinity ? 0 : topK, topP, tokens, also)[0]!;
  const data: NumberArray = await ids.data();
  return Array.from(data as BigInt64Array, Number);
}

const operators = ["memformer::sample_token", "memformer::sample_token_composed"];

/** Few different values, so that many are equal, and any; also tokens that are never drawn. */
const someLogits = fc
  .array(
    fc.oneof(
      fc.constantFrom(0, -0, 1, -1, Math.log(2), -Infinity),
      fc.double({ min: -30, max: 30, noNaN: true }),
      fc.float({ noNaN: true, noDefaultInfinity: true }),
    ),
    { minLength: 1, maxLength: 70 },
  )
  .filter((logits) => logits.some((logit) => logit > -Infinity));
const someOptions = fc.record({
  temperature: fc.oneof(fc.constantFrom(0, 1, 0.5, 1e-3, 100), fc.double({ min: 1e-6, max: 10, noNaN: true })),
  topK: fc.oneof(fc.constant(Infinity), fc.integer({ min: 1, max: 80 })),
  topP: fc.oneof(fc.constantFrom(1, 0.5, 0.25, 1e-9), fc.double({ min: 1e-12, max: 1, noNaN: true })),
  seed: fc.nat(),
});

describe("a drawn token", function () {
  this.timeout(300_000);

  it("is the one of a plain walk through the sorted tokens, in C++ and in TypeScript", async () => {
    await fc.assert(
      fc.asyncProperty(someLogits, someOptions, async (logits, options) => {
        const u = new Random(options.seed).next() / 2 ** 32,
          wanted = walked(logits, options, u);
        expect(sampler(options)(logits)).to.equal(wanted);
        expect(await drawn("memformer::sample_token", [logits], [u], options)).to.deep.equal([wanted]);
      }),
      { numRuns: 3000 },
    );
  });

  it("is that also of large vocabularies, sharp, flat and of equal logits, draw after draw", async () => {
    const random = new Random(4),
      uniform = (): number => random.next() / 2 ** 32;
    const shapes: Record<string, (i: number) => number> = {
      sharp: (i) => 20 * Math.sin(i * 12.9898),
      flat: () => uniform() / 1000,
      equal: () => 3,
      falling: (i) => -i / 5000,
      rising: (i) => i / 5000,
      "rounded to few values": () => Math.round(uniform() * 8),
    };
    for (const [what, logit] of Object.entries(shapes)) {
      const logits = Array.from(Float32Array.from({ length: 20_011 }, (_, i) => logit(i)));
      for (const options of [
        {},
        { topK: 40 },
        { topP: 0.9 },
        { topP: 0.3, topK: 1000 },
        { temperature: 0.7 },
        { temperature: 0 },
      ]) {
        const choose = sampler({ ...options, seed: 11 }),
          draws = new Random(11),
          told = `${what} ${JSON.stringify(options)}`;
        for (let n = 0; n < 4; n++) {
          const u = draws.next() / 2 ** 32,
            wanted = walked(logits, options, u);
          expect(choose(logits), told).to.equal(wanted);
          expect(await drawn("memformer::sample_token", [logits], [u], options, "float32"), told).to.deep.equal([
            wanted,
          ]);
        }
      }
    }
  });

  it("composed of ATen's operators is the same, away from the boundaries that rounding moves", async () => {
    await fc.assert(
      fc.asyncProperty(someLogits, someOptions, async (logits, options) => {
        const u = new Random(options.seed).next() / 2 ** 32,
          near = [u * (1 - 1e-9), u * (1 + 1e-9)].map((point) => walked(logits, options, point));
        const shares = [1 - 1e-9, 1 + 1e-9].map((factor) =>
          walked(logits, { ...options, topP: Math.min(1, options.topP * factor) }, u),
        );
        const wanted = walked(logits, options, u);
        fc.pre([...near, ...shares].every((token) => token === wanted));
        expect(await drawn("memformer::sample_token_composed", [logits], [u], options)).to.deep.equal([wanted]);
      }),
      { numRuns: 1000 },
    );
  });

  for (const name of operators) {
    it(`is drawn for each row by itself: ${name}`, async () => {
      const rows = [
        [0, 9, 0],
        [9, 0, 0],
        [0, 0, 9],
      ];
      expect(await drawn(name, rows, [0.5, 0.5, 0.5])).to.deep.equal([1, 0, 2]);
      expect(await drawn(name, rows, [0, 0.99999, 0.99999])).to.deep.equal([1, 2, 1]);
      expect(await drawn(name, [], [])).to.deep.equal([]);
    });

    it(`is never one that the tokenizer lacks, but may be BOS: ${name}`, async () => {
      const logits = [1, 2, 50, 60, 70];
      expect(await drawn(name, [logits], [0.9], { tokens: 2, temperature: 0 })).to.deep.equal([1]);
      expect(await drawn(name, [logits], [0.9], { tokens: 2, also: 3 })).to.deep.equal([3]);
      expect(await drawn(name, [logits], [0.9], { tokens: 2, also: 0, topK: 1 })).to.deep.equal([1]);
      expect(await drawn(name, [logits], [0.9], { tokens: 0 })).to.deep.equal([-1]);
    });

    it(`is -1 where a logit is NaN or infinite, or all are -infinity: ${name}`, async () => {
      const bad = [
        [1, NaN, 5],
        [NaN, NaN, NaN],
        [1, Infinity, 5],
        [-Infinity, -Infinity, -Infinity],
      ];
      for (const temperature of [0, 1]) {
        expect(
          await drawn(name, [...bad, [1, -Infinity, 5]], [0.5, 0.5, 0.5, 0.5, 0.5], { temperature }),
        ).to.deep.equal([-1, -1, -1, -1, 2]);
      }
    });

    it(`refuses shapes and options that are none: ${name}`, async () => {
      const cases: [Promise<unknown>, string, RegExp][] = [
        [drawn(name, [[1, 2]], [0.5, 0.5]), "SHAPE", /draws must have shape \(1\)/],
        [drawn(name, [[1, 2]], [0.5], { temperature: -1 }), "CONFIG", /temperature must be at least 0, got -1/],
        [drawn(name, [[1, 2]], [0.5], { topP: 1.5 }), "CONFIG", /top_p must be above 0 and at most 1, got 1.5/],
        [drawn(name, [[1, 2]], [0.5], { topK: -1 }), "CONFIG", /top_k must be at least 0, got -1/],
      ];
      for (const [work, code, message] of cases) {
        const error = await work.then(
          () => undefined,
          (reason: unknown) => reason as Error & { code: string },
        );
        expect(error?.code).to.equal(`ERR_MEMFORMER_${code}`);
        expect(error?.message).to.match(message);
      }
    });
  }
});

describeOnGpu("a token drawn on a GPU", () => {
  it("is the one that the CPU draws, away from rounding's boundaries", async () => {
    const random = new Random(9),
      logits = Array.from(Float32Array.from({ length: 50_257 }, () => random.next() / 2 ** 28));
    for (const options of [{}, { topK: 40 }, { topP: 0.9 }, { temperature: 0 }, { tokens: 50_000, also: 50_256 }]) {
      for (const u of [0, 0.1234567, 0.5, 0.987654]) {
        expect(await drawn("memformer::sample_token", [logits], [u], options, "float32", toGpu)).to.deep.equal(
          await drawn("memformer::sample_token", [logits], [u], options, "float32"),
        );
      }
    }
  });
});
