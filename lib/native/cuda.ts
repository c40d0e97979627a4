/** Opens the CUDA half of the addon, and turns a device's name into one that is there. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { isMemformerError, MemformerError } from "../errors.ts";
import { addonOrigin, guarded } from "./calls.ts";
import { cudaHalf } from "./layout.ts";

/** "auto": a GPU where there is one. "cuda" is "cuda:0". */
export type DeviceName = "auto" | "cpu" | "cuda" | `cuda:${number}`;
/** A device that is there. */
export type Device = "cpu" | `cuda:${number}`;

let names: readonly string[] | undefined;
let warned = false;

/**
 * Opens the CUDA half, once; the names of the GPUs.
 * Throws MemformerError NO_CUDA (LibTorch without CUDA, no driver, too old a driver, no device), LOAD_FAILED, LIBTORCH_MISMATCH.
 */
export function openCuda(): readonly string[] {
  if (names !== undefined) return names;
  const { libtorch, folder } = addonOrigin();
  if (libtorch.variant !== "cuda") {
    throw new MemformerError("NO_CUDA",
      `device "cuda" needs a LibTorch with CUDA; this is ${libtorch.version} for the CPU (${libtorch.root}). ` +
      "Name one that has it: MEMFORMER_LIBTORCH=python, or a folder");
  }
  const path = join(folder, cudaHalf);
  if (!existsSync(path)) {
    throw new MemformerError("NO_CUDA", `memformer's CUDA half is not there: ${path}. Compile it, with nvcc on the PATH: npx memformer build`);
  }
  return names = guarded((addon) => addon.openCuda(path));
}

/** The device meant by a name. Throws as {@link openCuda} for a GPU that is asked for; "auto" falls back to the CPU and says why, once. */
export function resolveDevice(device: DeviceName): Device {
  if (device === "cpu") return "cpu";
  if (device === "auto") return automatic();
  const match = /^cuda(?::(\d+))?$/.exec(device);
  if (match === null) throw new MemformerError("CONFIG", `device must be "auto", "cpu", "cuda" or "cuda:N", got "${String(device)}"`);
  const index = Number(match[1] ?? 0), found = openCuda();
  if (index >= found.length) {
    throw new MemformerError("NO_CUDA", `there is no device cuda:${index}: this machine has ${found.length} (${found.join(", ")})`);
  }
  return `cuda:${index}`;
}

function automatic(): Device {
  if (addonOrigin().libtorch.variant !== "cuda") return "cpu";
  try {
    openCuda();
    return "cuda:0";
  } catch (error) {
    if (!isMemformerError(error)) throw error;
    if (!warned) process.emitWarning(`device "auto" is the CPU: ${error.message}`, { code: error.code });
    warned = true;
    return "cpu";
  }
}
