/** Tensors: handles of what the engine holds or will hold. Making one only enqueues; reading one waits. */
import { isPromise } from "node:util/types";
import { MemformerError } from "../errors.ts";
import type { DType, OperatorArgument, TensorHandle } from "../native/addon.ts";
import { guarded, nextCall, waited } from "../native/calls.ts";
import { threadBound } from "./thread-bound.ts";

export type { DType } from "../native/addon.ts";
/** The arrays that tensors are made of and read into. */
export type NumberArray = Float64Array | Float32Array | BigInt64Array | Int32Array | Uint8Array | Uint16Array;

const scopes: Set<Tensor>[] = [];

/**
 * One tensor of the engine. Free it with `dispose()`, `using` or inside {@link tidy}; the garbage collector is only the
 * net.
 */
export class Tensor implements Disposable {
  /** @internal */
  readonly threadBound = threadBound;
  #handle: TensorHandle | undefined;

  /** @internal */
  constructor(handle: TensorHandle) {
    this.#handle = handle;
    scopes.at(-1)?.add(this);
  }

  /**
   * A tensor of these numbers, copied now. float64, float32, int64 (BigInt64Array), int32 and uint8 follow from the
   * array; bool takes a Uint8Array, float16 and bfloat16 a Uint16Array of their bits.
   * Throws MemformerError SHAPE when the shape does not hold exactly as many numbers.
   */
  static from(data: NumberArray, shape: readonly number[], dtype: DType = dtypeOf(data)): Tensor {
    for (const size of shape) {
      if (!Number.isSafeInteger(size) || size < 0)
        throw new RangeError(`shape must hold whole numbers of at least 0, got [${shape.join(", ")}]`);
    }
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return new Tensor(guarded((addon) => addon.tensor(dtype, shape, bytes)));
  }

  /** @internal */
  get handle(): TensorHandle {
    if (this.#handle === undefined) throw new MemformerError("DISPOSED", "this tensor has been disposed of");
    return this.#handle;
  }

  /** Whether the tensor has been given back. */
  get disposed(): boolean {
    return this.#handle === undefined;
  }

  /**
   * Its numbers, dtype and shape, copied out, once they are there. Rejects with the error of the call that should have
   * made it.
   */
  async read(): Promise<{ dtype: DType; shape: number[]; data: ArrayBuffer }> {
    const handle = this.handle,
      call = nextCall();
    return waited((addon) => addon.read(call, handle));
  }

  /** Resolves once its numbers are there; rejects with the error of the call that should have made it. */
  async settled(): Promise<void> {
    const handle = this.handle,
      call = nextCall();
    return waited((addon) => addon.read(call, handle, true));
  }

  /** Its numbers as the typed array of its dtype: Uint16Array for float16 and bfloat16, BigInt64Array for int64. */
  async data(): Promise<NumberArray> {
    const { dtype, data } = await this.read();
    return typedArray(dtype, data);
  }

  /** Its only number. Throws MemformerError SHAPE if it has several. */
  async item(): Promise<number> {
    const { dtype, data } = await this.read();
    const numbers = typedArray(dtype, data);
    if (numbers.length !== 1)
      throw new MemformerError("SHAPE", `item() needs a tensor of one number, this one has ${numbers.length}`);
    if (dtype === "bfloat16" || dtype === "float16")
      throw new MemformerError("DTYPE", `item() cannot read ${dtype}; convert to float32 first`);
    return Number(numbers[0]);
  }

  /** The same numbers without history. */
  detach(): Tensor {
    return new Tensor(guarded((addon) => addon.detach(nextCall(), this.handle)));
  }

  /** The same numbers as a leaf that wants a gradient. */
  leaf(): Tensor {
    return new Tensor(guarded((addon) => addon.leaf(nextCall(), this.handle)));
  }

  /** The gradient a leaf has gathered, zeros where nothing reached it. */
  gradient(): Tensor {
    return new Tensor(guarded((addon) => addon.gradient(nextCall(), this.handle)));
  }

  /** Frees it as soon as the calls made before have run. Idempotent. */
  dispose(): void {
    const handle = this.#handle;
    if (handle === undefined) return;
    this.#handle = undefined;
    guarded((addon) => {
      addon.release(handle);
    });
  }

  /** For `using`: as `dispose`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

type Given = (Tensor | readonly Tensor[] | Exclude<OperatorArgument, TensorHandle | readonly TensorHandle[]>)[];

/** Any operator of LibTorch's dispatcher or of ours, as `"aten::add.Tensor"` or `"memformer::biased_norm"`. */
export function callOperator(name: string, ...args: Given): Tensor[] {
  return dispatched(name, args);
}

/** {@link callOperator} for operators that return a list, of `count` tensors. */
export function callListOperator(name: string, count: number, ...args: Given): Tensor[] {
  return dispatched(name, args, count);
}

/** {@link callOperator} for operators with one result. */
export function applyOperator(name: string, ...args: Given): Tensor {
  return callOperator(name, ...args)[0]!;
}

function dispatched(name: string, args: Given, results?: number): Tensor[] {
  const [base, overload = ""] = name.split(".");
  const handles = args.map((arg) =>
    Array.isArray(arg)
      ? arg.map((element) => (element instanceof Tensor ? element.handle : (element as number)))
      : arg instanceof Tensor
        ? arg.handle
        : arg,
  ) as OperatorArgument[];
  return guarded((addon) => addon.op(nextCall(), base!, overload, handles, results)).map(
    (handle) => new Tensor(handle),
  );
}

/**
 * Back-propagates from `outputs`, weighted by `grads` (a tensor of the output's shape, or a number for scalars), into
 * every leaf that led to them, and frees the graph. Enqueues only: a failure surfaces at the next read.
 */
export function backward(outputs: readonly Tensor[], grads: readonly (Tensor | number)[]): void {
  guarded((addon) => {
    addon.backward(
      nextCall(),
      outputs.map((output) => output.handle),
      grads.map((grad) => (grad instanceof Tensor ? grad.handle : grad)),
    );
  });
}

/**
 * Disposes of every tensor made inside `body`, but those it returns (also inside arrays and plain objects).
 * Throws MemformerError TIDY_ASYNC if `body` returns a promise.
 */
export function tidy<T>(body: () => T): T {
  const made = new Set<Tensor>();
  scopes.push(made);
  let result: T;
  try {
    result = body();
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  } finally {
    scopes.pop();
  }
  const kept = new Set<Tensor>();
  collect(result, kept);
  for (const tensor of made) {
    if (!kept.has(tensor)) tensor.dispose();
    else scopes.at(-1)?.add(tensor);
  }
  if (isPromise(result))
    throw new MemformerError("TIDY_ASYNC", "tidy takes a synchronous function: this one returned a promise");
  return result;
}

function collect(value: unknown, tensors: Set<Tensor>): void {
  if (value instanceof Tensor) tensors.add(value);
  else if (Array.isArray(value)) for (const element of value) collect(element, tensors);
  else if (value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
    for (const element of Object.values(value)) collect(element, tensors);
  }
}

const dtypes: Readonly<Record<string, DType | undefined>> = {
  Float32Array: "float32",
  Float64Array: "float64",
  BigInt64Array: "int64",
  Int32Array: "int32",
  Uint8Array: "uint8",
};

/**
 * By its name, because an array of another realm (a `vm` context, a test in Jest) is not an instance of the classes
 * here.
 */
function dtypeOf(data: NumberArray): DType {
  const dtype = dtypes[data[Symbol.toStringTag]];
  if (dtype !== undefined) return dtype;
  throw new TypeError("a Uint16Array needs its dtype: float16 or bfloat16");
}

/** @internal */
export function typedArray(dtype: DType, data: ArrayBuffer): NumberArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(data);
    case "float64":
      return new Float64Array(data);
    case "int64":
      return new BigInt64Array(data);
    case "int32":
      return new Int32Array(data);
    case "float16":
    case "bfloat16":
      return new Uint16Array(data);
    default:
      return new Uint8Array(data);
  }
}

/**
 * @internal A tensor that was made on the host, on `device`: itself on a CPU; on a GPU a copy, and the tensor is
 * disposed of.
 */
export function placed(tensor: Tensor, device: string): Tensor {
  if (device === "cpu") return tensor;
  const there = applyOperator("aten::_to_copy", tensor, null, null, device);
  tensor.dispose();
  return there;
}
