/** What a number was measured on. */
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { configureRuntime } from "../engine/runtime.ts";
import { openCuda, resolveDevice, type DeviceName } from "../native/cuda.ts";

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
