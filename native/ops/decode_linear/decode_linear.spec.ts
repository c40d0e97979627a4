/** The projection of a decoding step: plain loops, and that no row's bits depend on the rows beside it. */
import { expect } from "chai";
import { applyOperator, callOperator, Tensor } from "../../../lib/index.ts";
import { cast, CODES, drawn, numbers } from "../../../test/support/decoding-rows.ts";
import { describeOnGpu, toGpu } from "../../../test/support/gpu.ts";
import { failure } from "../../../test/support/failure.ts";

const shapes = [
  { R: 1, inner: 1, outer: 1 },
  { R: 1, inner: 128, outer: 384 },
  { R: 3, inner: 13, outer: 17 },
  { R: 7, inner: 24, outer: 11 },
  { R: 64, inner: 40, outer: 9 },
  { R: 0, inner: 8, outer: 8 },
  { R: 2, inner: 0, outer: 5 },
  { R: 9, inner: 600, outer: 1300 },
] as const;
const dtypes = { float64: 1e-14, float32: 1e-6, bfloat16: 8e-3 } as const;

async function checkLoops(place: (tensor: Tensor) => Tensor): Promise<void> {
  for (const { R, inner, outer } of shapes)
    for (const [dtype, allowed] of Object.entries(dtypes) as [keyof typeof dtypes, number][])
      for (const biased of [true, false]) {
        const x = cast(drawn(1, R * inner), [R, inner], dtype),
          w = cast(drawn(2, outer * inner), [outer, inner], dtype),
          b = cast(drawn(3, outer), [outer], dtype);
        const [xs, ws, bs] = await Promise.all([numbers(x), numbers(w), numbers(b)]);
        const made = applyOperator("memformer::decode_linear", place(x), place(w), biased ? place(b) : null);
        const found = await numbers(made);
        expect(found.length).to.equal(R * outer);
        for (let r = 0; r < R; r++)
          for (let o = 0; o < outer; o++) {
            let sum = biased ? bs[o]! : 0,
              size = 1;
            for (let k = 0; k < inner; k++) {
              const product = xs[r * inner + k]! * ws[o * inner + k]!;
              sum += product;
              size += Math.abs(product);
            }
            expect(Math.abs(found[r * outer + o]! - sum), `${dtype} ${R} ${inner} ${outer}`).to.be.at.most(
              allowed * size,
            );
          }
      }
}

describe("memformer::decode_linear", function () {
  this.timeout(60_000);

  it("equals plain loops", () => checkLoops((tensor_) => tensor_));

  it("gives a row the same bits alone and among any others", async () => {
    for (const dtype of Object.keys(dtypes) as (keyof typeof dtypes)[])
      for (const { inner, outer } of shapes) {
        const R = 11,
          all = drawn(5, R * inner);
        const w = cast(drawn(6, outer * inner), [outer, inner], dtype),
          b = cast(drawn(7, outer), [outer], dtype);
        const product = async (rows: number, from: number, gelu = outer % 2 === 1): Promise<Float64Array> =>
          numbers(
            applyOperator(
              "memformer::decode_linear",
              cast(all.slice(from * inner, (from + rows) * inner), [rows, inner], dtype),
              w,
              b,
              gelu,
            ),
          );
        const whole = await product(R, 0);
        for (const rows of [1, 2, 4, 5])
          for (let from = 0; from + rows <= R; from += rows)
            expect(await product(rows, from)).to.deep.equal(whole.slice(from * outer, (from + rows) * outer));
      }
  });

  it("activates a sum by gelu", async () => {
    const x = cast(drawn(1, 3 * 8), [3, 8], "float64"),
      w = cast(drawn(2, 9 * 8), [9, 8], "float64");
    const found = await numbers(applyOperator("memformer::decode_linear", x, w, null, true));
    const wanted = await numbers(applyOperator("aten::gelu", applyOperator("aten::linear", x, w, null), "none"));
    found.forEach((value, i) => {
      expect(value).to.be.closeTo(wanted[i]!, 1e-15);
    });
  });

  it("activates in float32 to rounding, from end to end", async () => {
    const sweep = Array.from({ length: 4001 }, (_, i) => (i - 2000) / 250),
      values = Float64Array.of(...sweep, 1e-30, -1e-30, 50, -50, 1e30, -1e30, Infinity, NaN);
    const x = cast(values, [values.length, 1], "float32"),
      one = cast(Float64Array.of(1), [1, 1], "float32");
    const found = await numbers(applyOperator("memformer::decode_linear", x, one, null, true));
    const wanted = await numbers(
      applyOperator("aten::gelu", applyOperator("aten::to.dtype", x, CODES.float64), "none"),
    );
    found.forEach((value, i) => {
      const near = Number.isFinite(wanted[i]!) && Math.abs(wanted[i]!) < 1e20;
      if (near) expect(value, `gelu(${values[i]})`).to.be.closeTo(wanted[i]!, 4e-7 * Math.abs(values[i]!));
      else expect(value, `gelu(${values[i]})`).to.deep.equal(Math.fround(wanted[i]!));
    });
  });

  it("takes any leading axes and strides", async () => {
    const data = drawn(8, 2 * 3 * 8);
    using x = Tensor.from(data, [8, 3, 2]);
    const turned = applyOperator("aten::permute", x, [2, 1, 0]);
    const w = Tensor.from(drawn(9, 40), [8, 5]);
    const found = applyOperator("memformer::decode_linear", turned, applyOperator("aten::t", w), null);
    const { shape, data: values } = await found.read();
    expect(shape).to.deep.equal([2, 3, 5]);
    const plain = applyOperator("aten::linear", turned, applyOperator("aten::t", w), null);
    const wanted = (await plain.data()) as Float64Array;
    new Float64Array(values).forEach((value, i) => {
      expect(value).to.be.closeTo(wanted[i]!, 1e-13);
    });
  });

  it("refuses what does not fit, by name", async () => {
    const zeros = (...shape: number[]): Tensor =>
      Tensor.from(new Float64Array(shape.reduce((a, b) => a * b, 1)), shape);
    const cases: [Tensor, Tensor, Tensor | null, string, RegExp][] = [
      [zeros(2, 3), zeros(4, 5), null, "SHAPE", /weight must have shape \(any, 3\)/],
      [zeros(2, 3), zeros(4, 3), zeros(3), "SHAPE", /bias must have shape \(4\)/],
      [zeros(2, 3), cast(new Float64Array(12), [4, 3], "float32"), null, "DTYPE", /weight must have x's dtype/],
      [Tensor.from(new Int32Array(3), [1, 3]), zeros(4, 3), null, "DTYPE", /x must be float32/],
    ];
    for (const [x, w, b, code, message] of cases) {
      const error = await failure(applyOperator("memformer::decode_linear", x, w, b).read());
      expect(error.code).to.equal(`ERR_MEMFORMER_${code}`);
      expect(error.message).to.match(message);
    }
  });
});

describeOnGpu("memformer::decode_linear", () => {
  it("equals plain loops", () => checkLoops(toGpu));
});

/** x, branch, its bias, norm's weight and bias, weight, bias: of R rows, `inner` and `outer` numbers. */
function normedCase(R: number, inner: number, outer: number, dtype: keyof typeof CODES): Tensor[] {
  const master = dtype === "float64" ? "float64" : "float32";
  return [
    cast(drawn(11, R * inner), [R, inner], master),
    cast(drawn(12, R * inner), [R, inner], dtype),
    cast(drawn(13, inner), [inner], dtype),
    cast(drawn(14, inner), [inner], master),
    cast(drawn(15, inner), [inner], master),
    cast(drawn(16, outer * inner), [outer, inner], dtype),
    cast(drawn(17, outer), [outer], dtype),
  ];
}

const NORMED = { ...dtypes, float16: 1e-3 } as const;

async function checkNormed(place: (tensor: Tensor) => Tensor, kinds: readonly (keyof typeof CODES)[]): Promise<void> {
  for (const dtype of kinds)
    for (const [R, inner, outer, gelu] of [
      [1, 64, 40, false],
      [5, 24, 9, true],
      [17, 512, 96, true],
      [70, 96, 33, false],
    ] as const) {
      const [x, branch, branchBias, w, b, weight, bias] = normedCase(R, inner, outer, dtype).map(place);
      for (const withBranch of [true, false]) {
        const given = withBranch ? [branch!, branchBias!] : [null, null];
        const [sum, y] = callOperator(
          "memformer::decode_normed_linear", // prettier-ignore
          x!,
          given[0]!,
          given[1]!,
          w!,
          b!,
          weight!,
          bias!,
          gelu,
        );
        const [added, normed] = callOperator(
          "memformer::add_norm", // prettier-ignore
          x!,
          given[0]!,
          given[1]!,
          w!,
          b!,
          null,
          null,
          null,
          0,
          null,
          0,
          CODES[dtype],
        );
        const product = applyOperator("memformer::decode_linear", normed!, weight!, bias!, gelu);
        const [sums, found, wantedSum, wanted] = await Promise.all([sum!, y!, added!, product].map(numbers));
        const allowed = 4 * NORMED[dtype] * Math.sqrt(inner);
        sums!.forEach((value, i) => {
          expect(value, `sum ${dtype} ${R} ${inner}`).to.be.closeTo(wantedSum![i]!, 1e-6);
        });
        found!.forEach((value, i) => {
          expect(value, `${dtype} ${R} ${inner} ${outer}`).to.be.closeTo(wanted![i]!, allowed);
        });
      }
    }
}

async function checkRows(place: (tensor: Tensor) => Tensor, kinds: readonly (keyof typeof CODES)[]): Promise<void> {
  for (const dtype of kinds)
    for (const [inner, outer] of [
      [512, 200],
      [2048, 48],
      [64, 1200],
    ] as const) {
      const R = 150,
        parts = normedCase(R, inner, outer, dtype);
      const product = async (rows: number, from: number): Promise<Float64Array[]> => {
        const cut = (part: Tensor): Tensor => place(applyOperator("aten::narrow", part, 0, from, rows));
        const [x, branch] = parts.slice(0, 2).map(cut),
          [branchBias, w, b, weight, bias] = parts.slice(2).map(place);
        const [, y] = callOperator(
          "memformer::decode_normed_linear", // prettier-ignore
          x!,
          branch!,
          branchBias!,
          w!,
          b!,
          weight!,
          bias!,
          true,
        );
        const plain = applyOperator("memformer::decode_linear", branch!, weight!, bias!);
        return Promise.all([y!, plain].map(numbers));
      };
      const whole = await product(R, 0);
      for (const [rows, from] of [
        [1, 0],
        [1, 149],
        [3, 20],
        [17, 60],
        [64, 80],
        [65, 1],
        [149, 1],
      ] as const) {
        const some = await product(rows, from);
        for (const [kind, numbers] of some.entries())
          expect(numbers, `${dtype} ${inner} ${outer}: ${rows} from ${from}`).to.deep.equal(
            whole[kind]!.slice(from * outer, (from + rows) * outer),
          );
      }
    }
}

/** A branch in shares is its sum, in their order and numbers: to the bit, whatever reads it. */
async function checkShares(place: (tensor: Tensor) => Tensor, kinds: readonly (keyof typeof CODES)[]): Promise<void> {
  for (const dtype of kinds)
    for (const [R, inner, outer] of [
      [1, 512, 1536],
      [3, 512, 40],
      [8, 256, 768],
      [5, 24, 9],
      [17, 96, 33],
      [70, 512, 64],
    ] as const) {
      const [x, , branchBias, w, b, weight, bias] = normedCase(R, inner, outer, dtype).map(place),
        data = drawn(18, R * 8 * inner).map(Math.fround),
        shares = place(cast(data, [R, 8, inner], "float32")),
        what = `${dtype} ${R} ${inner} ${outer}`;
      const sums = Float64Array.from({ length: R * inner }, (_, i) => {
        let sum = 0;
        for (let share = 0; share < 8; share++)
          sum = Math.fround(sum + data[(Math.floor(i / inner) * 8 + share) * inner + (i % inner)]!);
        return sum;
      });
      const added = applyOperator("memformer::decode_add_shares", shares, CODES[dtype]);
      expect(await numbers(added), what).to.deep.equal(await numbers(cast(sums, [R, inner], dtype)));
      for (const withBias of [branchBias!, null]) {
        const product = (branch: Tensor): Tensor[] =>
          callOperator("memformer::decode_normed_linear", x!, branch, withBias, w!, b!, weight!, bias!, true);
        const [found, wanted] = await Promise.all(
          [shares, added].map(async (branch) => Promise.all(product(branch).map(numbers))),
        );
        expect(found, what).to.deep.equal(wanted);
      }
    }
}

describe("memformer::decode_add_shares", function () {
  this.timeout(60_000);

  it("is what decode_normed_linear adds of a branch in shares", () =>
    checkShares((tensor_) => tensor_, ["float32", "bfloat16"]));

  it("refuses what does not fit, by name", async () => {
    const cases: [Tensor, string, RegExp][] = [
      [cast(drawn(1, 16), [2, 8], "float64"), "DTYPE", /decode_add_shares: shares must be float/i],
      [cast(drawn(1, 14), [1, 7, 2], "float32"), "SHAPE", /shares must have shape \(\.\.\., 8, any\)/],
    ];
    for (const [shares, code, message] of cases) {
      const error = await failure(applyOperator("memformer::decode_add_shares", shares, CODES.float32).read());
      expect(error.code).to.equal(`ERR_MEMFORMER_${code}`);
      expect(error.message).to.match(message);
    }
  });
});

describeOnGpu("memformer::decode_add_shares", () => {
  it("is what decode_normed_linear adds of a branch in shares", () =>
    checkShares(toGpu, ["float32", "bfloat16", "float16"]));
});

describe("memformer::decode_normed_linear", function () {
  this.timeout(60_000);

  it("equals add_norm and decode_linear", () => checkNormed((tensor_) => tensor_, ["float64", "float32", "bfloat16"]));

  it("gives many columns the bits of few, in a dtype that is asked for", () =>
    checkWide((tensor_) => tensor_, ["bfloat16"]));

  it("refuses what does not fit, by name", async () => {
    const [x, branch, branchBias, w, b, weight, bias] = normedCase(2, 8, 3, "float32");
    const cases: [(Tensor | null)[], string, RegExp][] = [
      [[x!, branch!, branchBias!, w!, b!, cast(drawn(1, 21), [3, 7], "float32"), bias!], "SHAPE", /weight must have/],
      [[x!, null, branchBias!, w!, b!, weight!, bias!], "CONFIG", /branch_bias needs a branch/],
      [[x!, bias!, null, w!, b!, weight!, bias!], "SHAPE", /branch must have x's shape/],
      [
        [x!, cast(drawn(1, 112), [2, 7, 8], "float32"), null, w!, b!, weight!, bias!],
        "SHAPE",
        /shares must have shape/,
      ],
      [[x!, cast(drawn(1, 128), [2, 8, 8], "float64"), null, w!, b!, weight!, bias!], "DTYPE", /shares must be/],
      [[x!, cast(drawn(1, 64), [1, 8, 8], "float32"), null, w!, b!, weight!, bias!], "SHAPE", /branch must have x's/],
      [[x!, branch!, null, bias!, b!, weight!, bias!], "SHAPE", /norm_weight must have shape \(8\)/],
    ];
    for (const [given, code, message] of cases) {
      const made = callOperator("memformer::decode_normed_linear", ...given, false);
      const error = await failure(made[0]!.read());
      expect(error.code).to.equal(`ERR_MEMFORMER_${code}`);
      expect(error.message).to.match(message);
    }
  });
});

/** Many columns, which a GPU makes by a kernel of their own: the bits are those of a few of them alone. */
async function checkWide(place: (tensor: Tensor) => Tensor, kinds: readonly (keyof typeof CODES)[]): Promise<void> {
  for (const dtype of kinds)
    for (const [inner, outer] of [
      [512, 8197],
      [256, 9000],
    ] as const)
      for (const R of [1, 7, 12, 17, 70]) {
        const [x, branch, branchBias, w, b, weight, bias] = normedCase(R, inner, outer, dtype).map(place);
        const products = (from: number, count: number, as: number | null): Tensor[] => {
          const cut = (part: Tensor): Tensor => applyOperator("aten::narrow", part, 0, from, count);
          const columns = [cut(weight!), cut(bias!)] as const;
          const [, y] = callOperator(
            "memformer::decode_normed_linear", // prettier-ignore
            x!,
            branch!,
            branchBias!,
            w!,
            b!,
            ...columns,
            true,
            false,
            as,
          );
          return [y!, applyOperator("memformer::decode_linear", branch!, ...columns, false, false, as)];
        };
        const all = products(0, outer, null),
          wide = products(0, outer, CODES.float32);
        for (const [from, count] of [
          [0, 40],
          [outer - 40, 40],
          [4096, 16],
        ] as const)
          for (const [kind, few] of products(from, count, null).entries()) {
            const same = await numbers(few);
            for (const made of [all[kind]!, wide[kind]!])
              expect(
                await numbers(applyOperator("aten::narrow", made, 1, from, count)),
                `${dtype} ${R} ${inner} ${outer}: ${count} from ${from}, product ${kind}`,
              ).to.deep.equal(same);
          }
      }
}

describeOnGpu("memformer::decode_normed_linear", function () {
  this.timeout(120_000);
  it("gives many columns the bits of few", () => checkWide(toGpu, ["bfloat16", "float16"]));
  it("equals add_norm and decode_linear", () => checkNormed(toGpu, ["float64", "float32", "bfloat16", "float16"]));
  it("gives a row the same bits among any number of others", () =>
    checkRows(toGpu, ["float32", "bfloat16", "float16"]));
});
