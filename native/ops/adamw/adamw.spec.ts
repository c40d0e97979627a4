/** The optimizer's step against plain loops, on the CPU and, where there is one, on a GPU. */
import { expect } from "chai";
import { applyOperator, callOperator, tidy, type Tensor } from "../../../lib/index.ts";
import { errorOf } from "../../../test/support/opcheck-compare.ts";
import {
  download,
  Draw,
  EPSILON,
  type Numbers,
  numbers,
  rounded,
  upload,
} from "../../../test/support/opcheck-numbers.ts";
import { describeOnGpu, toGpu } from "../../../test/support/gpu.ts";

type Master = "float32" | "float64";

/** The numbers of a model half way: parameters, gradients, first and second moments. */
interface State {
  readonly p: Float64Array;
  readonly g: Float64Array;
  readonly m: Float64Array;
  readonly v: Float64Array;
}

interface Settings {
  readonly step: number;
  readonly norm: number;
  readonly rate: number;
  readonly decayed: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  readonly clip: number;
  readonly gradScale: number | null;
}

const SETTINGS: Settings = {
  step: 6,
  norm: 0.5,
  rate: 2 ** -7,
  decayed: 0,
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  weightDecay: 0.1,
  clip: 0,
  gradScale: null,
};

/** A third of the numbers have no gradient now, half of those never had one. */
function state(n: number, dtype: Master): State {
  const draw = new Draw(n),
    column = (value: (i: number) => number): Float64Array => rounded(numbers([n], value), dtype).data;
  const never = (i: number): boolean => i % 6 === 0;
  return {
    p: column(() => draw.uniform()),
    g: column((i) => (i % 3 === 0 ? 0 : draw.uniform() / 8)),
    m: column((i) => (never(i) ? 0 : draw.uniform() / 8)),
    v: column((i) => (never(i) ? 0 : draw.uniform() ** 2 / 64)),
  };
}

/** The step as the paper has it. */
function reference({ p, g, m, v }: State, settings: Settings): State {
  const { step, norm, rate, decayed, beta1, beta2, eps, weightDecay, clip, gradScale } = settings,
    zero = g.map(() => 0);
  if (!Number.isFinite(norm)) return { p, g: zero, m, v };
  const scale = (clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1) / (gradScale ?? 1),
    t = step + 1;
  const next = { p: p.slice(), g: zero, m: m.slice(), v: v.slice() };
  for (let i = 0; i < p.length; i++) {
    if (g[i] === 0 && v[i] === 0) continue;
    const gradient = g[i]! * scale;
    next.m[i] = beta1 * m[i]! + (1 - beta1) * gradient;
    next.v[i] = beta2 * v[i]! + (1 - beta2) * gradient ** 2;
    const [first, second] = [next.m[i]! / (1 - beta1 ** t), next.v[i]! / (1 - beta2 ** t)];
    next.p[i] = p[i]! * (i < decayed ? 1 - rate * weightDecay : 1) - (rate * first) / (Math.sqrt(second) + eps);
  }
  return next;
}

interface Stepped extends State {
  readonly step: number;
  readonly working: Float64Array | null;
}

async function stepped(
  before: State,
  settings: Settings,
  dtype: Master,
  narrow: boolean,
  move: (x: Tensor) => Tensor,
): Promise<Stepped> {
  const { step, norm, rate, decayed, beta1, beta2, eps, weightDecay, clip, gradScale } = settings;
  const tensors = tidy(() => {
    const flat = (data: Float64Array): Tensor => move(upload({ shape: [data.length], data, kind: "floating" }, dtype));
    const scalar = (value: number, as: Master): Tensor =>
      move(
        upload(
          numbers([], () => value),
          as,
        ),
      );
    const buffers = [before.p, before.g, before.m, before.v].map(flat);
    const working = narrow
        ? move(
            upload(
              numbers([before.p.length], () => NaN),
              "bfloat16",
            ),
          )
        : null,
      count = scalar(step, "float32");
    callOperator(
      "memformer::adamw_step",
      ...buffers,
      working,
      count,
      scalar(norm, dtype),
      scalar(rate, "float32"),
      decayed,
      beta1,
      beta2,
      eps,
      weightDecay,
      clip,
      gradScale === null ? null : scalar(gradScale, dtype),
    );
    return { buffers, working, count };
  });
  const all = [...tensors.buffers, tensors.count, ...(tensors.working === null ? [] : [tensors.working])];
  const [p, g, m, v, count, working] = await Promise.all(all.map(async (tensor) => (await download(tensor)).data));
  for (const tensor of all) tensor.dispose();
  return { p: p!, g: g!, m: m!, v: v!, step: count![0]!, working: working ?? null };
}

function declareOn(move: (x: Tensor) => Tensor): void {
  for (const dtype of ["float64", "float32"] as const) {
    const check = async (n: number, settings: Settings, narrow: boolean): Promise<void> => {
      const before = state(n, dtype),
        after = await stepped(before, settings, dtype, narrow, move);
      const expected = reference(before, settings),
        finite = Number.isFinite(settings.norm);
      for (const part of ["p", "m", "v"] as const) {
        expect(errorOf(after[part], expected[part]), part).to.be.below(32 * EPSILON[dtype]);
        for (let i = 0; i < n; i += finite ? 6 : 1) {
          if (after[part][i] !== before[part][i]) expect.fail(`${part} ${i}, which no gradient reached, has changed`);
        }
      }
      expect(after.g.every((gradient) => gradient === 0)).to.be.true;
      expect(after.step).to.equal(settings.step + (finite ? 1 : 0));
      if (!narrow) return;
      const wanted = finite
        ? rounded({ shape: [n], data: after.p, kind: "floating" }, "bfloat16").data
        : after.p.map(() => NaN);
      expect(after.working).to.deep.equal(wanted);
    };
    it(`makes the step of the plain loops in ${dtype}`, () => check(1000, { ...SETTINGS, decayed: 501 }, false));
    it(`makes the step of an odd number in ${dtype}`, () => check(1023, { ...SETTINGS, decayed: 1023 }, true));
    it(`makes the step of more than the chip holds at once in ${dtype}`, () =>
      check(2_400_000, { ...SETTINGS, decayed: 2 ** 20 }, true));
    it(`makes the first step in ${dtype}`, () => check(64, { ...SETTINGS, step: 0, decayed: 64 }, true));
    it(`clips, and undoes a scale of the gradients in ${dtype}`, () =>
      check(256, { ...SETTINGS, clip: 0.125, gradScale: 4 }, true));
    it(`leaves gradients shorter than the clip in ${dtype}`, () => check(256, { ...SETTINGS, clip: 2 }, true));
    for (const norm of [NaN, Infinity]) {
      it(`makes no step, but drops the gradients, for a norm of ${norm} in ${dtype}`, () =>
        check(256, { ...SETTINGS, norm }, true));
    }
    it(`takes the norm of plain loops, the same bits again, in ${dtype}`, async () => {
      for (const n of [0, 1, 7, 4096, 300_001, 2_400_000]) {
        const { g } = state(n, dtype);
        const norm = async (scale: number | null): Promise<number> => {
          const tensor = tidy(() =>
            applyOperator(
              "memformer::gradient_norm",
              move(upload({ shape: [n], data: g, kind: "floating" }, dtype)),
              scale === null
                ? null
                : move(
                    upload(
                      numbers([], () => scale),
                      dtype,
                    ),
                  ),
            ),
          );
          const { data } = await download(tensor);
          tensor.dispose();
          return data[0]!;
        };
        const found = await norm(null),
          expected = Math.sqrt(g.reduce((sum, gradient) => sum + gradient ** 2, 0));
        expect(Math.abs(found - expected), `of ${n}`).to.be.at.most(64 * EPSILON[dtype] * expected);
        expect(await norm(null)).to.equal(found);
        expect(await norm(4)).to.equal(found / 4);
      }
    });
  }
}

if ("describe" in globalThis) {
  describe("memformer::adamw_step and memformer::gradient_norm", () => {
    declareOn((x) => x);

    const refused = (at: number, value: Numbers | number, code: string, message: RegExp): void => {
      it(`refuses: ${message.source}`, async () => {
        const flat = numbers([6]),
          scalar = numbers([]);
        const args = [flat, flat, flat, flat, null, scalar, scalar, scalar, 6, 0.9, 0.95, 1e-8, 0.1, 0, null].with(
          at,
          value,
        );
        const parameters = upload(flat, "float32");
        try {
          tidy(() => {
            callOperator(
              "memformer::adamw_step",
              ...args.map((arg) => (typeof arg === "object" && arg !== null ? upload(arg, "float32") : arg)),
            );
          });
          await parameters.read();
          expect.fail("it is not refused");
        } catch (error) {
          expect(error).to.have.property("code", `ERR_MEMFORMER_${code}`);
          expect((error as Error).message).to.match(message);
        } finally {
          parameters.dispose();
        }
      });
    };
    refused(0, numbers([2, 3]), "SHAPE", /adamw_step: parameters must have shape \(any\), got \[2, 3\]/);
    refused(1, numbers([5]), "SHAPE", /adamw_step: gradients must have shape \(6\), got \[5\]/);
    refused(
      2,
      numbers([6], () => 0, "int64"),
      "DTYPE",
      /adamw_step: exp_avg must have parameters's dtype Float, got Long/,
    );
    refused(
      4,
      numbers([6], () => 0, "int64"),
      "DTYPE",
      /adamw_step: working must be of a floating dtype, got Long/,
    );
    refused(5, numbers([1]), "SHAPE", /adamw_step: step must have shape \(\), got \[1\]/);
    refused(8, 7, "CONFIG", /adamw_step: decayed must be from 0 to 6, got 7/);
  });

  describeOnGpu("memformer::adamw_step and memformer::gradient_norm on the GPU [sanitize]", () => {
    declareOn(toGpu);
  });
}
