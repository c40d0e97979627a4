/** Suites that need a GPU: declared where there is one; elsewhere one skipped test says why there is none. */
import { applyOperator, isMemformerError, configureRuntime, type Tensor } from "../../lib/index.ts";
import type { Device } from "../../lib/native/cuda.ts";
import { openCuda } from "../../lib/native/cuda.ts";
import { resolveLibtorch } from "../../lib/toolchain/libtorch/resolve.ts";

export const GPU: Device = "cuda:0";

let reason: string | undefined | null = null;

/** Why there is no GPU here; undefined where there is. Loads nothing where LibTorch is for the CPU. */
export function whyNoGpu(): string | undefined {
  if (reason !== null) return reason;
  try {
    const { variant, version, root } = resolveLibtorch();
    if (variant !== "cuda") return (reason = `LibTorch ${version} in ${root} is for the CPU`);
    configureRuntime();
    openCuda();
    return (reason = undefined);
  } catch (error) {
    if (!isMemformerError(error)) throw error;
    return (reason = error.message.split("\n")[0]!);
  }
}

/** `describe`, where there is a GPU. */
export function describeOnGpu(title: string, body: (this: Mocha.Suite) => void): void {
  const why = whyNoGpu();
  if (why === undefined) describe(title, body);
  else
    describe.skip(title, () => {
      it(`needs a GPU: ${why}`);
    });
}

/** On the GPU; gradients find their way back. */
export function toGpu(tensor: Tensor): Tensor {
  return applyOperator("aten::_to_copy", tensor, null, null, GPU);
}
