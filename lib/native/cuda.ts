/** Opens the CUDA half of the addon, and turns a device's name into one that is there. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { isMemformerError, MemformerError } from "../errors.ts";
import { addonOrigin, guarded } from "./calls.ts";
import { cudaHalf } from "../toolchain/package-layout.ts";
import { pinnedCuda, readPins } from "../toolchain/libtorch/pin.ts";
import type { Libtorch } from "../toolchain/libtorch/resolve.ts";
import { cudaDriver, cudaVersionOf } from "./load.ts";
import { loadError, type Remedy } from "../toolchain/load-error.ts";

/** "auto": a GPU where there is one. "cuda" is "cuda:0". */
export type DeviceName = "auto" | "cpu" | "cuda" | `cuda:${number}`;
/** What an option that names a device takes: {@link resolveDevice} says which names are none. */
export const deviceName = z.custom<DeviceName>((value) => typeof value === "string", "must be a name");
/** A device that is there. */
export type Device = "cpu" | `cuda:${number}`;

/** A GPU: its name, and how much memory it has. */
export interface Gpu {
  readonly name: string;
  readonly bytes: number;
}

let gpus: readonly Gpu[] | undefined;
let warned = false;

/**
 * Opens the CUDA half, once; the GPUs.
 * Throws MemformerError NO_CUDA (LibTorch without CUDA, no driver, no device), DRIVER_TOO_OLD, LOAD_FAILED,
 * LIBTORCH_MISMATCH.
 */
export function openCuda(): readonly Gpu[] {
  if (gpus !== undefined) return gpus;
  const { libtorch, folder } = addonOrigin(),
    path = join(folder, cudaHalf),
    driver = cudaDriver();
  const needed = Number((libtorch.cuda ?? "0").split(".")[0]);
  if (libtorch.variant !== "cuda")
    throw noCuda("this LibTorch is for the CPU", libtorch, driver, [fetchLine(), pythonLine]);
  if (typeof driver === "string") throw noCuda(driver, libtorch, driver, [driverLine]);
  if (Math.floor(driver / 1000) < needed) {
    const reason = `the NVIDIA driver serves CUDA up to ${cudaVersionOf(driver)}, LibTorch is built with ${libtorch.cuda}`;
    throw noCuda(reason, libtorch, driver, [driverLine], "DRIVER_TOO_OLD");
  }
  if (!existsSync(path)) {
    throw noCuda(`memformer's CUDA half is missing: ${path}`, libtorch, driver, [
      ["compile it, with nvcc on the PATH", "npx memformer build"],
    ]);
  }
  return (gpus = guarded((addon) => addon.openCuda(path)));
}

const driverLine = ["install an NVIDIA driver that fits", "nvidia-smi shows the one that is there"] as const;
const pythonLine = ["or use the PyTorch of a Python install", "MEMFORMER_LIBTORCH=python"] as const;

function fetchLine(): Remedy {
  return ["fetch a LibTorch with CUDA once", `npx memformer setup --variant ${pinnedCuda(readPins())}`];
}

function noCuda(
  reason: string,
  { root, version, variant, cuda }: Libtorch,
  driver: number | string,
  remedies: readonly Remedy[],
  code: "NO_CUDA" | "DRIVER_TOO_OLD" = "NO_CUDA",
): MemformerError {
  const attempts = [
    { place: "LibTorch", outcome: `${version} for ${variant === "cpu" ? "the CPU" : `CUDA ${cuda ?? ""}`} (${root})` },
    { place: "driver", outcome: typeof driver === "string" ? driver : `serves CUDA up to ${cudaVersionOf(driver)}` },
  ];
  return loadError(code, `device "cuda" is not available: ${reason}.`, attempts, [
    ...remedies,
    ["or run on the CPU", 'device: "cpu"'],
  ]);
}

/**
 * The device meant by a name. Throws as {@link openCuda} for a GPU that is asked for; "auto" falls back to the CPU and
 * says why, once.
 */
export function resolveDevice(device: DeviceName): Device {
  if (device === "cpu") return "cpu";
  if (device === "auto") return automatic();
  const match = /^cuda(?::(\d+))?$/.exec(device);
  if (match === null)
    throw new MemformerError("CONFIG", `device must be "auto", "cpu", "cuda" or "cuda:N", got "${String(device)}"`);
  const index = Number(match[1] ?? 0),
    found = openCuda();
  if (index >= found.length) {
    throw new MemformerError(
      "NO_CUDA",
      `there is no device cuda:${index}: this machine has ${found.length} (${found.map(({ name }) => name).join(", ")})`,
    );
  }
  return `cuda:${index}`;
}

/** Bytes of memory that the GPU has. */
export function gpuBytes(device: Exclude<Device, "cpu">): number {
  return openCuda()[Number(device.slice("cuda:".length))]!.bytes;
}

function automatic(): Device {
  const { libtorch } = addonOrigin();
  if (libtorch.variant !== "cuda") {
    const chosen = Boolean(process.env["MEMFORMER_VARIANT"] || process.env["MEMFORMER_LIBTORCH"]);
    if (!chosen && typeof cudaDriver() === "number")
      warn(`this LibTorch is for the CPU; ${fetchLine().join(": ")}`, "ERR_MEMFORMER_NO_CUDA");
    return "cpu";
  }
  try {
    openCuda();
    return "cuda:0";
  } catch (error) {
    if (!isMemformerError(error)) throw error;
    warn(error.message, error.code);
    return "cpu";
  }
}

function warn(reason: string, code: string): void {
  if (!warned) process.emitWarning(`device "auto" is the CPU: ${reason}`, { code });
  warned = true;
}
