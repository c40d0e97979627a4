/** One run of an operator in the engine, on memory filled with garbage of our choice. */
import { backward, synchronize, Tensor, tidy } from "../../lib/index.ts";
import {
  count,
  download,
  type FloatingDType,
  type Found,
  type Layout,
  type Numbers,
  rounded,
  SCALAR_TYPE,
  upload,
} from "./opcheck-numbers.ts";
import { type Argument, type Call, isNumbers, TESTED_DTYPE } from "./opcheck-spec.ts";

export interface RunOptions {
  readonly dtype?: FloatingDType;
  readonly layout?: Layout;
  /** What freed memory is filled with before; 0xff makes NaN in every floating dtype. Default 0xff. */
  readonly stale?: number;
}

/** The results of one call, without gradient. */
export async function run(call: Call, args: readonly Argument[], options: RunOptions = {}): Promise<Found[]> {
  soil(args, options.stale ?? 0xff);
  const results = tidy(() => call(...uploadAll(args, options, false)));
  if (results.length === 0) await synchronize(); // where a failure surfaces that no result carries
  return await downloadAll(results);
}

/** The gradients of the differentiable `args` for these cotangents of the results; nothing comes back through null. */
export async function gradients(
  call: Call,
  args: readonly Argument[],
  cotangents: readonly (Numbers | null)[],
  options: RunOptions = {},
): Promise<Found[]> {
  soil([...args, ...cotangents], options.stale ?? 0xff);
  const sent = tidy(() => {
    const uploaded = uploadAll(args, options, true);
    const results = call(...uploaded);
    const through = results.filter((_, i) => cotangents[i] !== null);
    const weights = cotangents.filter((cotangent) => cotangent !== null);
    backward(
      through,
      weights.map((weight) => upload(weight, options.dtype ?? "float64", options.layout)),
    );
    return uploaded
      .filter((value, i): value is Tensor => value instanceof Tensor && isDifferentiable(args[i]!))
      .map((leaf) => leaf.gradient());
  });
  await synchronize(); // a failure surfaces here, where no gradient is wanted too
  return await downloadAll(sent);
}

/** The arguments as the engine sees them in `dtype`. */
export function roundedAll<Args extends readonly Argument[]>(args: Args, dtype: FloatingDType): Args {
  return args.map((value) => (isNumbers(value) ? rounded(value, dtype) : value)) as unknown as Args;
}

export function isDifferentiable(argument: Argument): argument is Numbers {
  return isNumbers(argument) && (argument.kind === "floating" || argument.kind === "master");
}

function uploadAll(
  args: readonly Argument[],
  { dtype = "float64", layout }: RunOptions,
  asLeaves: boolean,
): (Tensor | number | null)[] {
  return args.map((value) => {
    if (!isNumbers(value)) return value === TESTED_DTYPE ? SCALAR_TYPE[dtype] : value;
    const tensor = upload(value, dtype, layout);
    return asLeaves && isDifferentiable(value) ? tensor.leaf() : tensor;
  });
}

async function downloadAll(tensors: readonly Tensor[]): Promise<Found[]> {
  try {
    return await Promise.all(tensors.map(download));
  } finally {
    for (const tensor of tensors) tensor.dispose();
  }
}

/** The allocator hands freed blocks out again: leaves some of every size in question behind, filled with `byte`. */
function soil(args: readonly Argument[], byte: number): void {
  const sizes = new Set(args.filter(isNumbers).flatMap(({ shape }) => [2, 4, 8].map((size) => size * count(shape))));
  for (const size of [512, ...sizes]) {
    const blocks = Array.from({ length: 4 }, () => Tensor.from(new Uint8Array(size).fill(byte), [size]));
    for (const block of blocks) block.dispose();
  }
}
