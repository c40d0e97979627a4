/**
 * An operator's CUDA kernels, proved against its CPU pair: at the same rounded numbers the CPU's float64 results and
 * gradients are the truth, and the kernels' mean error may be twice that of the composed ATen on the same GPU. Each
 * check returns its complaints.
 */
import { applyOperator, isMemformerError, memoryUsage, synchronize, Tensor } from "../../lib/index.ts";
import { toGpu } from "./gpu.ts";
import { checkPrecision, checkReference } from "./opcheck-forward.ts";
import { checkGradientPrecision, cotangentsFor } from "./opcheck-gradient.ts";
import { compare } from "./opcheck-compare.ts";
import { Draw, type FloatingDType, type Found, type Numbers } from "./opcheck-numbers.ts";
import { gradients, roundedAll, run, type RunOptions } from "./opcheck-run.ts";
import type { Argument, Call, RegisteredSpec, SpecCase } from "./opcheck-spec.ts";
import { type Checks, operator } from "./opcheck.ts";

/** Two float64 programs that sum in different orders. */
const ORDER = 1e-10;

/** Checks of one case in every dtype. */
export function cudaChecks(spec: RegisteredSpec, shape: SpecCase): Checks {
  const draw = new Draw(spec.cases.indexOf(shape), 1),
    args = spec.inputs(shape, draw);
  const cotangents = cotangentsFor(spec.reference(...args), draw);
  const onCpu = operator(spec);
  const onGpu = moved(onCpu);
  const plainOnGpu = { reference: spec.reference.bind(spec), plain: moved((...given) => [...spec.plain(...given)]) };
  const checks: Checks = {
    "equals plain loops in float64, and its gradient the CPU's": async () =>
      whereSupported(async () => [
        ...(await checkReference(spec, args, onGpu, ORDER)),
        ...(await checkAgainstCpu(args, cotangents, onCpu, onGpu)),
      ]),
  };
  for (const dtype of ["float32", "bfloat16", "float16"] as const) {
    checks[`is as accurate as composed ATen in ${dtype}`] = () => checkPrecision(plainOnGpu, args, onGpu, dtype);
    checks[`gradient is as accurate as composed ATen in ${dtype}`] = () =>
      checkGradientPrecision(plainOnGpu, args, cotangents, onGpu, dtype, onCpu);
    if (spec.leftToLibTorch?.(shape, dtype) === true) continue;
    checks[`gives the same bits again in ${dtype}`] = () => checkBits(args, cotangents, onGpu, dtype);
  }
  checks["does not leak"] = async () => {
    const use = async (): Promise<number> => {
      await run(onGpu, args, { dtype: "float32" });
      await gradients(onGpu, args, cotangents, { dtype: "float32" });
      await synchronize();
      return memoryUsage().deviceBytes;
    };
    const before = await use(),
      after = await use();
    return after <= before ? [] : [`${after - before} bytes stay behind`];
  };
  return checks;
}

/** `call` on the GPU, given tensors of the CPU, on memory that freed blocks of NaN were in. */
export function moved(call: Call): Call {
  return (...given) => {
    const there = given.map((value) => (value instanceof Tensor ? toGpu(value) : value));
    for (const tensor of there.filter((value) => value instanceof Tensor)) {
      const wide = applyOperator("aten::_to_copy", tensor.detach(), "float32");
      const blocks = Array.from({ length: 4 }, () => applyOperator("aten::full_like", wide, NaN));
      for (const block of [...blocks, wide]) block.dispose();
    }
    return call(...there);
  };
}

/** The float64 gradients of the CPU. */
async function checkAgainstCpu(
  args: readonly Argument[],
  cotangents: readonly (Numbers | null)[],
  onCpu: Call,
  onGpu: Call,
): Promise<string[]> {
  const truth = (await gradients(onCpu, args, cotangents)).map(({ shape, data }): Numbers => ({
    shape,
    data,
    kind: "floating",
  }));
  const found = await gradients(onGpu, args, cotangents);
  return found.flatMap((gradient, i) => compare(`gradient ${i} in float64`, gradient, truth[i]!, ORDER));
}

async function checkBits(
  args: readonly Argument[],
  cotangents: readonly (Numbers | null)[],
  call: Call,
  dtype: FloatingDType,
): Promise<string[]> {
  const narrow = roundedAll(args, dtype),
    options: RunOptions = { dtype };
  const once = async (): Promise<Found[]> => [
    ...(await run(call, narrow, options)),
    ...(await gradients(call, narrow, cotangents, options)),
  ];
  const first = await once(),
    second = await once();
  return first.flatMap(({ data }, i) => {
    const at = data.findIndex((value, j) => !Object.is(value, second[i]!.data[j]));
    return at < 0
      ? []
      : [`result or gradient ${i} is not the same twice: ${data[at]}, then ${second[i]!.data[at]} at ${at}`];
  });
}

/** A kernel may have no float64 instantiation; then it refuses in words. */
async function whereSupported(check: () => Promise<string[]>): Promise<string[]> {
  try {
    return await check();
  } catch (error) {
    if (isMemformerError(error) && error.code === "ERR_MEMFORMER_DTYPE") return [];
    throw error;
  }
}
