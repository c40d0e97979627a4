/** What Muon does number by number, against plain loops, on the CPU and, where there is one, on a GPU. */
import { expect } from "chai";
import { applyOperator, callOperator, tidy, Tensor } from "../../../lib/index.ts";
import {
  download,
  Draw,
  EPSILON,
  numbers,
  rounded,
  SCALAR_TYPE,
  upload,
} from "../../../test/support/opcheck-numbers.ts";
import { describeOnGpu, toGpu } from "../../../test/support/gpu.ts";

type Master = "float32" | "float64";
type Move = (x: Tensor) => Tensor;

const asIs: Move = (x) => x;
const beta = 0.9375;

function uniform(n: number, seed: number, dtype: Master): Float64Array {
  const draw = new Draw(seed);
  return rounded(
    numbers([n], () => draw.uniform()),
    dtype,
  ).data;
}

function line(data: Float64Array, dtype: Master, move: Move): Tensor {
  return move(
    upload(
      numbers([data.length], (i) => data[i]!),
      dtype,
    ),
  );
}

function placesOf(places: readonly (readonly [number, number])[], move: Move): Tensor {
  return move(Tensor.from(BigInt64Array.from(places.flat(), BigInt), [places.length, 2]));
}

/** Two matrices of (r, s) among other numbers, the second at a place that no vector access fits. */
const cases = [
  {
    rows: 4,
    columns: 8,
    places: [
      [64, 0],
      [101, 67],
    ],
  },
  {
    rows: 3,
    columns: 5,
    places: [
      [2, 0],
      [40, 16],
    ],
  },
  {
    rows: 70,
    columns: 64,
    places: [
      [0, 4480],
      [4544, 0],
    ],
  },
] as const;

function suite(move: Move): void {
  for (const dtype of ["float32", "float64"] as const)
    for (const { rows, columns, places } of cases)
      for (const { norm, clip, gradScale } of [
        { norm: 0.5, clip: 0, gradScale: null },
        { norm: 4, clip: 1, gradScale: 8 },
        { norm: NaN, clip: 1, gradScale: null },
      ])
        it(`${dtype}, ${rows} x ${columns}, norm ${norm}, clip ${clip}, scale ${gradScale}`, async () => {
          const size = rows * columns,
            n = 9100;
          const g = uniform(n, 1, dtype),
            m = uniform(n, 2, dtype),
            w = uniform(n, 3, dtype);
          const gradients = line(g, dtype, move),
            momenta = line(m, dtype, move),
            values = line(w, dtype, move),
            at = placesOf(places, move);
          const of = (x: number): Tensor =>
            move(
              upload(
                numbers([], () => x),
                dtype,
              ),
            );
          const scale = gradScale === null ? null : of(gradScale);
          const u = applyOperator(
            "memformer::muon_momentum",
            gradients,
            momenta,
            at,
            rows,
            columns,
            of(norm),
            scale,
            clip,
            beta,
            SCALAR_TYPE[dtype],
          );
          const finite = Number.isFinite(norm),
            by = finite ? (clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1) / (gradScale ?? 1) : 0;
          const wanted = { g: g.slice(), m: m.slice(), u: new Float64Array(2 * size), w: w.slice() };
          places.forEach(([here, there], i) => {
            for (let k = 0; k < size; k++) {
              const gradient = by * g[here + k]!;
              wanted.g[here + k] = 0;
              if (!finite) continue;
              wanted.m[there + k] = beta * m[there + k]! + (1 - beta) * gradient;
              wanted.u[i * size + k] = beta * wanted.m[there + k]! + (1 - beta) * gradient;
            }
          });
          const close = async (found: Tensor, expected: Float64Array, name: string): Promise<void> => {
            const { data } = await download(found);
            expected.forEach((value, i) => {
              expect(data[i], `${name}[${i}]`).to.be.closeTo(value, 4 * EPSILON[dtype]);
            });
          };
          expect((await download(u)).shape).to.deep.equal([2, rows, columns]);
          await close(u, wanted.u, "u");
          await close(momenta, wanted.m, "momenta");
          await close(gradients, wanted.g, "gradients");

          // The first matrix moves, the second has no norm and stays.
          const norms = move(
            upload(
              numbers([2], (i) => 2 - 2 * i),
              dtype,
            ),
          );
          callOperator("memformer::muon_step", values, at, u, norms, 0.75, 0.5);
          for (let k = 0; k < size; k++) {
            const here = places[0][0] + k;
            wanted.w[here] = 0.75 * w[here]! - 0.5 * wanted.u[k]!;
          }
          await close(values, wanted.w, "values");
          for (const tensor of [gradients, momenta, values, at, u, norms, ...(scale === null ? [] : [scale])])
            tensor.dispose();
        });
}

describe("Muon's operators", () => {
  suite(asIs);

  const refused = (
    message: RegExp,
    places: readonly (readonly [number, number])[],
    { rows = 2, momenta = "float32" }: { readonly rows?: number; readonly momenta?: Master } = {},
  ): void => {
    it(`refuse: ${message.source}`, async () => {
      const u = tidy(() =>
        applyOperator(
          "memformer::muon_momentum",
          line(new Float64Array(8), "float32", asIs),
          line(new Float64Array(8), momenta, asIs),
          placesOf(places, asIs),
          rows,
          2,
          upload(
            numbers([], () => 1),
            "float32",
          ),
          null,
          0,
          0.9,
          SCALAR_TYPE.float32,
        ),
      );
      try {
        await u.data();
        expect.fail("it is not refused");
      } catch (error) {
        expect((error as Error).message).to.match(message);
      } finally {
        u.dispose();
      }
    });
  };
  refused(/a matrix of 4 numbers lies outside its buffer, at 5 and 0/, [[5, 0]]);
  refused(/outside its buffer, at 0 and -1/, [[0, -1]]);
  refused(/a matrix has at least a row and a column, got 0 and 2/, [[0, 0]], { rows: 0 });
  refused(/momenta must have gradients's dtype Float, got Double/, [[0, 0]], { momenta: "float64" });
});

describeOnGpu("Muon's operators on the GPU", () => {
  suite(toGpu);
});
