/**
 * Checks the machine against what memformer's binaries need, before one is opened: a wrong machine ends the process,
 * it does not throw.
 */
import { readFileSync } from "node:fs";

/** Facts about this machine. */
export interface Machine {
  readonly platform: string;
  readonly arch: string;
  /** Of the GNU C library; undefined where another one runs (musl). */
  readonly glibc: string | undefined;
  readonly node: string;
  readonly napi: number;
  /** /proc/cpuinfo; "" where there is none. */
  readonly cpuinfo: string;
}

/** One thing a machine has to have. */
export interface Demand {
  readonly name: "platform" | "glibc" | "node" | "processor";
  readonly ok: boolean;
  readonly found: string;
  /** The sentence that says what is needed. */
  readonly needed: string;
}

/** PyTorch's wheels are built for it (manylinux_2_28). */
const oldestGlibc = [2, 28] as const;
/** The instruction set that the addon is compiled for: x86-64-v3. */
const instructions = ["avx2", "fma"];

/** This machine. */
export function thisMachine(): Machine {
  const { node, napi = "0" } = process.versions as { node: string; napi?: string };
  return {
    platform: process.platform,
    arch: process.arch,
    glibc: glibc(),
    node,
    napi: Number(napi),
    cpuinfo: readIfAllowed("/proc/cpuinfo"),
  };
}

/** A file's text; "" where there is none, or where Node's permission model keeps it from us. */
export function readIfAllowed(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** The report holds the C library's version; without `excludeNetwork` it may wait for a name server. */
function glibc(): string | undefined {
  const report = process.report as NodeJS.ProcessReport & { excludeNetwork?: boolean };
  const before = report.excludeNetwork;
  report.excludeNetwork = true;
  const { header } = report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  if (before !== undefined) report.excludeNetwork = before;
  return header.glibcVersionRuntime;
}

/** Every demand, and how `machine` meets it. */
export function demands(machine: Machine): Demand[] {
  const target = `${machine.platform}-${machine.arch}`;
  const [major = 0, minor = 0] = (machine.glibc ?? "").split(".").map(Number);
  const [oldMajor, oldMinor] = oldestGlibc;
  return [
    { name: "platform", ok: target === "linux-x64", found: target, needed: "memformer runs on linux-x64 only" },
    {
      name: "glibc",
      ok: major > oldMajor || (major === oldMajor && minor >= oldMinor),
      found: machine.glibc ?? "another C library",
      needed: `PyTorch needs glibc ${oldMajor}.${oldMinor}: Debian 10, RHEL 8 or newer, and no Alpine`,
    },
    {
      name: "node",
      ok: machine.napi >= 9,
      found: `${machine.node}, Node-API ${machine.napi}`,
      needed: "install Node 20.19, 22.12 or newer",
    },
    processor(machine),
  ];
}

function processor({ cpuinfo, arch }: Machine): Demand {
  const model = /^model name\s*:\s*(.+)$/m.exec(cpuinfo)?.[1] ?? arch;
  const missing =
    arch === "x64" && cpuinfo !== ""
      ? instructions.filter((feature) => !new RegExp(`^flags.*\\b${feature}\\b`, "m").test(cpuinfo))
      : [];
  const found = missing.length === 0 ? model : `${model}, without ${missing.join(" and ")}`;
  return {
    name: "processor",
    ok: missing.length === 0,
    found,
    needed: "memformer is compiled for x86-64-v3 (Haswell, Zen or newer)",
  };
}
