/** A step of decoding over caches, against plain loops: what is written where, what is read, and by whom. */
import { expect } from "chai";
import { applyOperator, Tensor } from "../../../lib/index.ts";
import { cast, drawn, int32, numbers } from "../../../test/support/decoding-rows.ts";
import { describeOnGpu, toGpu } from "../../../test/support/gpu.ts";
import { failure } from "../../../test/support/failure.ts";

const dtypes = { float64: 1e-13, float32: 3e-6, bfloat16: 1.6e-2 } as const;
type DType = keyof typeof dtypes;

interface Case {
  readonly what: string;
  readonly S: number;
  readonly H: number;
  readonly N: number;
  readonly E: number;
  readonly slots: readonly number[];
  readonly positions: readonly number[];
}

const cases: Case[] = [
  { what: "one row, one head, one place", S: 1, H: 1, N: 1, E: 2, slots: [0], positions: [0] },
  { what: "odd sizes, rows at their own places", S: 4, H: 3, N: 7, E: 6, slots: [2, 0, 3], positions: [4, 0, 6] },
  { what: "several rows of one slot", S: 2, H: 2, N: 9, E: 10, slots: [1, 1, 1, 0, 1], positions: [2, 3, 4, 8, 5] },
  { what: "larger than a vector", S: 3, H: 4, N: 70, E: 32, slots: [2, 1], positions: [69, 33] },
  { what: "no rows", S: 2, H: 2, N: 3, E: 4, slots: [], positions: [] },
];

function close(found: Float64Array, wanted: Float64Array, allowed: number, what: string): void {
  expect(found.length).to.equal(wanted.length);
  for (const [i, value] of wanted.entries()) expect(Math.abs(found[i]! - value), what).to.be.at.most(allowed);
}

/** decode_append of a case, with its arguments as numbers. */
async function appended({ S, H, N, E, slots, positions }: Case, dtype: DType, rotates: boolean, place: Place) {
  const R = slots.length,
    accumulated = dtype === "float64" ? dtype : "float32";
  const qkv = cast(drawn(1, R * 3 * H * E), [R, 3 * H * E], dtype),
    keys = place(cast(drawn(2, S * H * N * E), [S, H, N, E], dtype)),
    vals = place(cast(drawn(3, S * H * N * E), [S, H, N, E], dtype));
  const angles = drawn(4, (N * E) / 2).map((x) => x * Math.PI);
  const table = (f: (x: number) => number): Tensor => cast(angles.map(f), [N, E / 2], accumulated);
  const before = { keys: await numbers(keys), values: await numbers(vals), qkv: await numbers(qkv) };
  const q = applyOperator(
    "memformer::decode_append",
    place(qkv),
    rotates ? place(table(Math.cos)) : null,
    rotates ? place(table(Math.sin)) : null,
    place(int32(slots)),
    place(int32(positions)),
    keys,
    vals,
  );
  return { before, angles, q: await numbers(q), keys: await numbers(keys), values: await numbers(vals) };
}

type Place = (tensor: Tensor) => Tensor;
const here: Place = (given) => given;

async function checkAppend(place: Place): Promise<void> {
  for (const shape of cases)
    for (const [dtype, allowed] of Object.entries(dtypes) as [DType, number][])
      for (const rotates of [true, false]) {
        const { H, N, E, slots, positions, what } = shape,
          half = E / 2;
        const found = await appended(shape, dtype, rotates, place);
        const wanted = { q: new Float64Array(found.q.length), keys: found.before.keys, values: found.before.values };
        for (const [r, slot] of slots.entries())
          for (let h = 0; h < H; h++)
            for (let e = 0; e < E; e++) {
              const at = positions[r]!,
                angle = found.angles[at * half + (e % half)]!;
              const turned = (part: number): number => {
                const from = (r * 3 + part) * H * E + h * E,
                  x = found.before.qkv;
                if (!rotates || part === 2) return x[from + e]!;
                const [c, s] = [Math.cos(angle), Math.sin(angle)];
                return e < half
                  ? x[from + e]! * c - x[from + e + half]! * s
                  : x[from + e]! * c + x[from + e - half]! * s;
              };
              const to = ((slot * H + h) * N + at) * E + e;
              wanted.q[(r * H + h) * E + e] = turned(0);
              wanted.keys[to] = turned(1);
              wanted.values[to] = turned(2);
            }
        for (const part of ["q", "keys", "values"] as const)
          close(found[part], wanted[part], 3 * allowed, `${what}, ${dtype}, ${part}`);
      }
}

/** softmax(q k / sqrt(E) + bias) v, by loops. */
function attended(
  { H, N, E }: Case,
  q: Float64Array,
  keys: Float64Array,
  vals: Float64Array,
  slots: readonly number[],
  lengths: readonly number[],
  bias: Float64Array | null,
): Float64Array {
  const y = new Float64Array(q.length);
  for (const [r, slot] of slots.entries())
    for (let h = 0; h < H; h++) {
      const n = Math.min(Math.max(lengths[r]!, 1), N),
        row = (j: number): number => ((slot * H + h) * N + j) * E;
      const scores = Array.from({ length: n }, (_, j) => {
        let sum = 0;
        for (let e = 0; e < E; e++) sum += q[(r * H + h) * E + e]! * keys[row(j) + e]!;
        return sum / Math.sqrt(E) + (bias === null ? 0 : bias[(r * H + h) * N + j]!);
      });
      const top = Math.max(...scores),
        weights = scores.map((score) => Math.exp(score - top));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      for (let e = 0; e < E; e++)
        y[(r * H + h) * E + e] = weights.reduce((sum, weight, j) => sum + (weight / total) * vals[row(j) + e]!, 0);
    }
  return y;
}

async function checkAttention(place: Place): Promise<void> {
  for (const shape of cases)
    for (const [dtype, allowed] of Object.entries(dtypes) as [DType, number][])
      for (const biased of [true, false])
        for (const whole of [true, false]) {
          const { S, H, N, E, what } = shape;
          const slots = whole ? Array.from({ length: S }, (_, s) => s) : shape.slots,
            R = slots.length;
          const lengths = whole ? slots.map(() => N) : shape.positions.map((at) => at + 1);
          const q = cast(drawn(5, R * H * E), [R, H * E], dtype),
            keys = cast(drawn(6, S * H * N * E), [S, H, N, E], dtype),
            vals = cast(drawn(7, S * H * N * E), [S, H, N, E], dtype);
          const bias = biased ? cast(drawn(8, R * H * N), [R, H, N], dtype === "float64" ? dtype : "float32") : null;
          const found = await numbers(
            applyOperator(
              "memformer::decode_attention",
              place(q),
              place(keys),
              place(vals),
              whole ? null : place(int32(slots)),
              whole ? null : place(int32(lengths)),
              bias === null ? null : place(bias),
            ),
          );
          const wanted = attended(
            shape,
            await numbers(q),
            await numbers(keys),
            await numbers(vals),
            slots,
            lengths,
            bias === null ? null : await numbers(bias),
          );
          close(found, wanted, allowed, `${what}, ${dtype}${biased ? ", with a bias" : ""}${whole ? ", of all" : ""}`);
        }
}

/** decode_self_attention against decode_append and decode_attention, to the bit; every row in another slot. */
async function checkSelf(place: Place): Promise<void> {
  for (const { S, H, N, E, slots, positions, what } of [
    ...cases.filter(({ slots }) => new Set(slots).size === slots.length),
    { what: "as wide as kernels like it", S: 5, H: 2, N: 128, E: 64, slots: [4, 0, 2], positions: [127, 5, 0] },
  ])
    for (const dtype of Object.keys(dtypes) as DType[])
      for (const rotates of [true, false]) {
        const R = slots.length,
          accumulated = dtype === "float64" ? dtype : "float32";
        const qkv = place(cast(drawn(1, R * 3 * H * E), [R, 3 * H * E], dtype));
        const angles = drawn(4, (N * E) / 2).map((x) => x * Math.PI);
        const table = (f: (x: number) => number): Tensor | null =>
          rotates ? place(cast(angles.map(f), [N, E / 2], accumulated)) : null;
        const of = [place(int32(slots)), place(int32(positions))] as const,
          lengths = place(int32(positions.map((position) => position + 1)));
        const caches = (): Tensor[] =>
          [2, 3].map((seed) => place(cast(drawn(seed, S * H * N * E), [S, H, N, E], dtype)));
        const [keys, vals] = caches(),
          [keysToo, valsToo] = caches();
        const [cos, sin] = [table(Math.cos), table(Math.sin)];
        const q = applyOperator("memformer::decode_append", qkv, cos, sin, ...of, keys!, vals!);
        const wanted = applyOperator("memformer::decode_attention", q, keys!, vals!, of[0], lengths, null);
        const found = applyOperator("memformer::decode_self_attention", qkv, cos, sin, ...of, keysToo!, valsToo!);
        for (const [one, other] of [
          [found, wanted],
          [keysToo!, keys!],
          [valsToo!, vals!],
        ] as const)
          expect(await numbers(one), `${what}, ${dtype}`).to.deep.equal(await numbers(other));
      }
}

async function checkPlaces(place: Place): Promise<void> {
  const positions = place(int32([3, 0, 6, 7])),
    context = place(int32([9, 8, 7, 6]));
  const rows = (slots: readonly number[], ahead: readonly number[] | null): Tensor =>
    applyOperator(
      "memformer::decode_rows",
      place(int32(slots)),
      positions,
      context,
      ahead === null ? null : place(int32(ahead)),
      6,
    );
  expect(Array.from(await numbers(rows([2, 0, 3], null)))).to.deep.equal([6, 3, 6, 7, 4, 7, 7, 9, 6]);
  expect(Array.from(await numbers(positions))).to.deep.equal([4, 0, 7, 7]);
  expect(Array.from(await numbers(rows([1, 1, 1], [0, 1, 2])))).to.deep.equal([0, 1, 2, 1, 2, 3, 8, 8, 8]);
  expect(Array.from(await numbers(positions))).to.deep.equal([4, 3, 7, 7]);
}

describe("memformer::decode_self_attention", function () {
  this.timeout(60_000);
  it("is decode_append and decode_attention, to the bit", () => checkSelf(here));
});

describe("memformer::decode_rows", () => {
  it("tells where rows stand, and moves their slots on", () => checkPlaces(here));

  it("refuses what does not fit, by name", async () => {
    const call = (slots: Tensor, positions: Tensor, context: Tensor): Promise<unknown> =>
      applyOperator("memformer::decode_rows", slots, positions, context, null, 3).read();
    const wrong = await failure(call(int32([2]), int32([0, 0]), int32([1, 1])));
    expect(wrong.message).to.match(/row 0 is of slot 2 of 2/);
    const short = await failure(call(int32([0]), int32([0, 0]), int32([1])));
    expect(short.message).to.match(/context_lengths must have shape \(2\)/);
  });
});

describe("memformer::decode_append", function () {
  this.timeout(60_000);

  it("turns queries and keys, and writes each row where its slot stands, and nothing else", () => checkAppend(here));

  it("refuses what does not fit, by name, and writes nothing", async () => {
    const zeros = (...shape: number[]): Tensor =>
      Tensor.from(new Float64Array(shape.reduce((a, b) => a * b, 1)).fill(1), shape);
    const keys = zeros(2, 1, 3, 4),
      good = { qkv: zeros(1, 12), cos: zeros(3, 2), sin: zeros(3, 2), slots: int32([0]), at: int32([0]), vals: keys };
    const wrong: [Partial<Record<keyof typeof good, Tensor | null>>, string, RegExp][] = [
      [{ qkv: zeros(1, 11) }, "SHAPE", /qkv must have shape \(any, 12\)/],
      [{ slots: int32([2]) }, "CONFIG", /row 0 is to be written at position 0 of slot 2; there are 2 slots of 3/],
      [{ at: int32([3]) }, "CONFIG", /at position 3 of slot 0/],
      [{ at: int32([-1]) }, "CONFIG", /at position -1/],
      [{ at: int32([0, 1]) }, "SHAPE", /positions must have shape \(1\)/],
      [{ slots: Tensor.from(BigInt64Array.of(0n), [1]) }, "DTYPE", /slots must be Int/],
      [{ sin: null }, "CONFIG", /cos and sin come together/],
      [{ cos: zeros(2, 2) }, "SHAPE", /cos must hold the angles of 3 positions, got 2/],
      [{ vals: zeros(2, 1, 3, 2) }, "SHAPE", /values must have shape \(2, 1, 3, 4\)/],
    ];
    for (const [change, code, message] of wrong) {
      const a = { ...good, ...change };
      const error = await failure(
        applyOperator("memformer::decode_append", a.qkv, a.cos, a.sin, a.slots, a.at, keys, a.vals).read(),
      );
      expect(error.code, String(message)).to.equal(`ERR_MEMFORMER_${code}`);
      expect(error.message).to.match(message);
    }
    expect((await numbers(keys)).every((value) => value === 1)).to.be.true;
  });
});

describe("memformer::decode_attention", function () {
  this.timeout(60_000);

  it("equals plain loops", () => checkAttention(here));

  it("gives a row the same bits alone and among any others, whatever lies behind its keys", async () => {
    const { S, H, N, E } = cases[1]!;
    for (const dtype of Object.keys(dtypes) as DType[]) {
      const keys = cast(drawn(6, S * H * N * E), [S, H, N, E], dtype),
        vals = cast(drawn(7, S * H * N * E), [S, H, N, E], dtype);
      const data = drawn(5, 3 * H * E),
        slots = [2, 0, 2],
        lengths = [4, 7, 1];
      const read = async (from: number, to: number): Promise<Float64Array> =>
        numbers(
          applyOperator(
            "memformer::decode_attention",
            cast(data.slice(from * H * E, to * H * E), [to - from, H * E], dtype),
            keys,
            vals,
            int32(slots.slice(from, to)),
            int32(lengths.slice(from, to)),
            null,
          ),
        );
      const all = await read(0, 3);
      for (let r = 0; r < 3; r++) expect(await read(r, r + 1)).to.deep.equal(all.slice(r * H * E, (r + 1) * H * E));
      const nan = Tensor.from(new Float64Array(S * H * 3 * E).fill(NaN), [S, H, 3, E]);
      for (const cache of [keys, vals]) {
        const behind = applyOperator("aten::narrow", cache, 2, 4, 3);
        applyOperator("aten::copy_", behind, nan);
      }
      expect(await read(0, 1)).to.deep.equal(all.slice(0, H * E));
    }
  });

  it("takes caches of any strides, also one that all rows share", async () => {
    const { H, N, E } = cases[1]!,
      R = 3;
    const q = Tensor.from(drawn(5, R * H * E), [R, H * E]);
    const packed = Tensor.from(drawn(6, N * 2 * H * E), [1, N, 2, H, E]);
    const part = (i: number): Tensor =>
      applyOperator("aten::transpose.int", applyOperator("aten::select.int", packed, 2, i), 1, 2); // (1, H, N, E)
    const shared = [0, 1].map((i) => applyOperator("aten::expand", part(i), [R, H, N, E]));
    const found = await numbers(
      applyOperator("memformer::decode_attention", q, shared[0]!, shared[1]!, null, null, null),
    );
    const wanted = attended(
      cases[1]!,
      await numbers(q),
      await numbers(part(0)),
      await numbers(part(1)),
      [0, 0, 0],
      [N, N, N],
      null,
    );
    close(found, wanted, 1e-13, "shared");
  });

  it("refuses what does not fit, by name", async () => {
    const zeros = (...shape: number[]): Tensor =>
      Tensor.from(new Float64Array(shape.reduce((a, b) => a * b, 1)), shape);
    const keys = zeros(2, 1, 3, 4);
    const wrong: [(Tensor | null)[], string, RegExp][] = [
      [[zeros(2, 5), keys, keys, null, null, null], "SHAPE", /q must have shape \(any, 4\)/],
      [[zeros(3, 4), keys, keys, null, null, null], "SHAPE", /without slots keys must have q's 3 rows/],
      [[zeros(2, 4), zeros(2, 1, 0, 4), zeros(2, 1, 0, 4), null, null, null], "SHAPE", /at least one key/],
      [[zeros(1, 4), keys, keys, int32([2]), null, null], "CONFIG", /row 0 is to read slot 2 of 2/],
      [[zeros(2, 4), keys, keys, null, int32([1]), null], "SHAPE", /lengths must have shape \(2\)/],
      [[zeros(2, 4), keys, keys, null, null, zeros(2, 1, 2)], "SHAPE", /bias must have shape \(2, 1, 3\)/],
    ];
    for (const [args, code, message] of wrong) {
      const error = await failure(applyOperator("memformer::decode_attention", ...args).read());
      expect(error.code, String(message)).to.equal(`ERR_MEMFORMER_${code}`);
      expect(error.message).to.match(message);
    }
  });
});

describeOnGpu("decoding's operators", () => {
  it("write what plain loops write", () => checkAppend(toGpu));
  it("read what plain loops read", () => checkAttention(toGpu));
  it("do both in one", () => checkSelf(toGpu));
  it("tell where rows stand", () => checkPlaces(toGpu));
});
