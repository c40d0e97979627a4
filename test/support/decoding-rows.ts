/** What the specs of a decoding step's operators draw, read and compare: two ways to the same bits. */
import { execFileSync } from "node:child_process";
import { expect } from "chai";
import { applyOperator, Random, Tensor } from "../../lib/index.ts";
import { failure } from "./failure.ts";

/** LibTorch's numbers of dtypes. */
export const CODES = { float64: 7, float32: 6, bfloat16: 15, float16: 5 } as const;
export type DType = keyof typeof CODES;

/** Where the tensors of a case go. */
export type Place = (tensor: Tensor) => Tensor;
export const here: Place = (tensor) => tensor;

/** Counts of rows, and where they begin among 150: those that take different kernels. */
const someOf150 = [
  [1, 0],
  [1, 149],
  [2, 20],
  [3, 40],
  [7, 31],
  [8, 64],
  [9, 64],
  [16, 1],
  [17, 60],
  [65, 85],
] as const;

/** Numbers from -size to size. */
export function drawn(seed: number, count: number, size = 1): Float64Array {
  const random = new Random(seed);
  return Float64Array.from({ length: count }, () => size * (random.next() / 2 ** 31 - 1));
}

export function cast(data: Float64Array, shape: readonly number[], dtype: DType): Tensor {
  using wide = Tensor.from(data, shape);
  return applyOperator("aten::to.dtype", wide, CODES[dtype]);
}

export function int32(values: readonly number[]): Tensor {
  return Tensor.from(Int32Array.from(values), [values.length]);
}

/** Makes tensors of `dtype` there, of numbers from -size to size. */
export function maker(dtype: DType, place: Place) {
  return (seed: number, shape: readonly number[], size = 1, as: DType = dtype): Tensor => {
    const count = shape.reduce((a, b) => a * b, 1);
    return place(cast(drawn(seed, count, size), shape, as));
  };
}

/** What `make` gives for a shape, a dtype and a place, made once. */
export function once<Shape, Given>(
  make: (shape: Shape, dtype: DType, place: Place) => Given,
): (shape: Shape, dtype: DType, place: Place) => Given {
  const before = new Map<string, Given>();
  return (shape, dtype, place) => {
    const key = JSON.stringify([shape, dtype, place === here]),
      given = before.get(key) ?? make(shape, dtype, place);
    before.set(key, given);
    return given;
  };
}

export async function numbers(tensor: Tensor): Promise<Float64Array> {
  using wide = applyOperator("aten::to.dtype", tensor, CODES.float64);
  return Float64Array.from((await wide.data()) as Float64Array);
}

/** These rows of a tensor there. */
export function rowPicker(rows: readonly number[], place: Place): (tensor: Tensor) => Tensor {
  const index = place(Tensor.from(BigInt64Array.from(rows, BigInt), [rows.length]));
  return (tensor) => applyOperator("aten::index_select", tensor, 0, index);
}

/** A product of so many axes; where it is in shares, which are an axis more, their sum. */
export async function wholeProduct(
  product: Tensor,
  axes: number,
  dtype: DType,
): Promise<{ product: Tensor; shared: boolean }> {
  const shared = (await product.read()).shape.length === axes + 1;
  return {
    product: shared ? applyOperator("memformer::decode_add_shares", product, CODES[dtype]) : product,
    shared,
  };
}

/** Without chai's comparison, which takes minutes for caches. */
export function expectBits(found: Float64Array, wanted: Float64Array, what: string): void {
  expect(found.length, what).to.equal(wanted.length);
  const at = found.findIndex((value, i) => !Object.is(value, wanted[i]));
  if (at >= 0) expect.fail(`${what}[${at}] is ${found[at]}, not ${wanted[at]}`);
}

/** That both ways give the same numbers in these parts, all of them finite in y. */
export async function expectSame<Made extends { readonly y: Float64Array }>(
  make: (by: "one" | "parts") => Promise<Made>,
  parts: readonly (keyof Made)[],
  what: string,
): Promise<void> {
  const found = await make("one"),
    wanted = await make("parts");
  for (const part of parts)
    expectBits(found[part] as Float64Array, wanted[part] as Float64Array, `${what}: ${String(part)}`);
  expect(found.y.every(Number.isFinite), what).to.equal(true);
}

/** That rows give the same bits alone and among 150: D numbers of each in these parts. No rows named: all. */
export async function expectSameRows<Made>(
  make: (rows?: readonly number[]) => Promise<Made>,
  parts: readonly (keyof Made)[],
  D: number,
  what: string,
): Promise<void> {
  const whole = await make();
  for (const [count, from] of someOf150) {
    const some = await make(Array.from({ length: count }, (_, i) => from + i));
    for (const part of parts) {
      const wanted = (whole[part] as Float64Array).slice(from * D, (from + count) * D);
      expectBits(some[part] as Float64Array, wanted, `${String(part)} of ${what}: ${count} from ${from}`);
    }
  }
}

/** Whether few rows are one kernel on this machine's GPU, unless somebody has turned that off. */
export function mergesFewRows(): boolean {
  const query = ["--query-gpu=compute_cap", "--format=csv,noheader"],
    capability = Number(execFileSync("nvidia-smi", query, { encoding: "utf8" }).split("\n")[0]);
  return capability >= 9 && process.env["MEMFORMER_DECODE_SHARED_ROWS"] === undefined;
}

/** That an operator refuses its arguments so. */
export async function expectRefused(call: () => Tensor, code: string, message: RegExp): Promise<void> {
  const error = await failure(Promise.resolve().then(() => call().read()));
  expect(error.message).to.match(message);
  expect(error.code).to.equal(`ERR_MEMFORMER_${code}`);
}

export function zeros(...shape: number[]): Tensor {
  return Tensor.from(new Float64Array(shape.reduce((a, b) => a * b, 1)), shape);
}
