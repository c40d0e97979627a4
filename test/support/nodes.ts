/**
 * The Nodes that tests of whole processes run under: `MEMFORMER_NODES`, binaries joined by colons; else the running
 * one.
 */
import { execFileSync } from "node:child_process";

export interface NodeBinary {
  readonly path: string;
  /** As `v22.23.3`. */
  readonly version: string;
}

export function nodes(): NodeBinary[] {
  const paths = (process.env["MEMFORMER_NODES"] ?? "").split(":").filter((path) => path !== "");
  if (paths.length === 0) return [{ path: process.execPath, version: process.version }];
  return paths.map((path) => ({ path, version: execFileSync(path, ["--version"], { encoding: "utf8" }).trim() }));
}
