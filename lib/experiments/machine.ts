/** What a number was measured on. */
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { configureRuntime, memoryUsage } from "../engine/runtime.ts";
import { openCuda, resolveDevice, type Device, type DeviceName } from "../native/cuda.ts";

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

/** Of this process, computing on `device`; `MEMFORMER_COMMIT` names the commit it was built from. */
export function machineOf(device: DeviceName): Record<string, string | number> {
  const place = resolveDevice(device),
    { libtorch, threads } = configureRuntime(),
    commit = process.env["MEMFORMER_COMMIT"];
  const where =
    place === "cpu"
      ? { processor: cpus()[0]?.model ?? "unknown", threads }
      : { gpu: openCuda()[Number(place.slice("cuda:".length))]!.name };
  return { ...where, node: process.version, libtorch, memformer: version, ...(commit !== undefined && { commit }) };
}

/** Bytes of tensors where a model computes: those of now, and the most since `resetPeakMemory`. */
export function tensorBytes(device: Device): { readonly now: number; readonly peak: number } {
  const { hostBytes, peakHostBytes, deviceBytes, peakDeviceBytes } = memoryUsage();
  return device === "cpu" ? { now: hostBytes, peak: peakHostBytes } : { now: deviceBytes, peak: peakDeviceBytes };
}
