/**
 * `memformer build`: compiles the addon and its loader with cmake-js into `out/<variant>/Release/`. A `build.json`
 * beside the products, written last, says with what they were made; without it a build counts as not done.
 */
import { existsSync, readFileSync, rmSync, statSync } from "node:fs";
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { availableParallelism, freemem } from "node:os";
import { join, resolve } from "node:path";
import { MemformerError } from "../errors.ts";
import { cudaHalf } from "./package-layout.ts";
import { missingHeader } from "./libtorch/libtorch-folder.ts";
import { cmakeJs, ranOutOfMemory, type CMakeRun } from "./libtorch/cmake.ts";
import { withLock } from "../files/lock.ts";
import { packageRoot, packageVersion } from "./libtorch/pin.ts";
import type { Report } from "./libtorch/report.ts";
import { resolveLibtorch, type Libtorch } from "./libtorch/resolve.ts";
import { findTools, requireTools } from "./libtorch/tools.ts";

export interface BuildOptions {
  /** A folder, or `python`. Default: what {@link resolveLibtorch} finds. */
  readonly libtorch?: string | undefined;
  /** Compilations at a time. Default: one a core, as far as memory reaches. */
  readonly jobs?: number | undefined;
  /** Default false: optimised, without assertions. */
  readonly debug?: boolean | undefined;
  /** CMake's folder. Default `out/<variant>` in the package. */
  readonly out?: string | undefined;
  readonly report?: Report | undefined;
  /** Default `process.env`. */
  readonly env?: NodeJS.ProcessEnv | undefined;
}

/** Content of `build.json`. */
export interface BuildRecord {
  readonly package: string;
  readonly libtorch: { readonly root: string; readonly version: string; readonly variant: string };
  readonly compiler: string;
  /** Where the CUDA half was built too. */
  readonly nvcc?: string | undefined;
  readonly debug: boolean;
  /** ISO 8601. */
  readonly date: string;
  readonly seconds: number;
}

export interface BuildResult {
  /** Holds `memformer.node`, `loader.node` and `build.json`. */
  readonly folder: string;
  readonly seconds: number;
}

/** The files that a build leaves; with a CUDA LibTorch and nvcc also {@link cudaHalf}. */
export const products = ["memformer.node", "loader.node"] as const;

const recordName = "build.json";

/** A heavy LibTorch translation unit takes about this much memory. */
const memoryOfOneJob = 1.5e9;

/** Where a build for `variant` lands if `out` was not given. */
export function buildFolder(variant: string, debug = false): string {
  return join(packageRoot, "out", variant, debug ? "Debug" : "Release");
}

/** The record of the build in `folder`; undefined if there is none, or it did not end. */
export function readBuild(folder: string): BuildRecord | undefined {
  try {
    return JSON.parse(readFileSync(join(folder, recordName), "utf8")) as BuildRecord;
  } catch {
    return undefined;
  }
}

/** Why the build in `folder` cannot be used with `libtorch` and today's sources; undefined if it can. */
export async function staleness(folder: string, libtorch: Libtorch): Promise<string | undefined> {
  const record = readBuild(folder);
  const lost = products.find((name) => !existsSync(join(folder, name)));
  if (record === undefined || lost !== undefined) return "not built yet";
  const { root, version } = record.libtorch;
  if (root !== libtorch.root || version !== libtorch.version) return `built for LibTorch ${version} in ${root}`;
  const built = statSync(join(folder, recordName)).mtimeMs;
  const names = await readdir(join(packageRoot, "native"), { recursive: true });
  const kinds = /\.(cpp|h|hpp|cu|cuh|txt|cmake)$/;
  const sources = names.filter((name) => kinds.test(name)).map((name) => join("native", name));
  const newer = ["CMakeLists.txt", ...sources].find((path) => statSync(join(packageRoot, path)).mtimeMs > built);
  return newer === undefined ? undefined : `${newer} is newer`;
}

/**
 * Compiles the addon.
 *
 * @throws MemformerError `TOOLS_MISSING` (all that miss, at once), `LIBTORCH_NOT_FOUND`, `LIBTORCH_MISMATCH`, `NATIVE`
 * when a compilation fails (the compiler's words are in the message and in `build.log`); RangeError for `jobs`.
 */
export async function buildNative(options: BuildOptions = {}): Promise<BuildResult> {
  const { report, env = process.env, debug = false } = options;
  const jobs = options.jobs ?? Math.max(1, Math.min(availableParallelism(), Math.floor(freemem() / memoryOfOneJob)));
  if (!Number.isInteger(jobs) || jobs < 1) {
    const error = new RangeError(`jobs: expected a whole number of at least 1, got ${String(options.jobs)}`);
    throw Object.assign(error, { code: "ERR_MEMFORMER_CONFIG" });
  }
  const tools = findTools(env);
  requireTools(tools);
  const headless = ({ root }: { readonly root: string }): string | undefined => {
    const absent = missingHeader(root);
    return absent === undefined ? undefined : `can be loaded, not compiled against: it has no ${absent}`;
  };
  const libtorch = resolveLibtorch({ libtorch: options.libtorch, env, unfit: headless });
  const unfit = headless(libtorch);
  if (unfit !== undefined) {
    throw new MemformerError(
      "LIBTORCH_MISMATCH",
      `The LibTorch in ${libtorch.root} (${libtorch.source}) ${unfit}. One that can:  npx memformer setup`,
      { details: { root: libtorch.root } },
    );
  }
  const out = resolve(options.out ?? join(packageRoot, "out", libtorch.variant));
  const folder = join(out, debug ? "Debug" : "Release");
  const onWait = (pid: number): void => report?.(`Process ${pid} is building in ${out}; waiting for it.`);
  return await withLock(join(out, ".lock"), { onWait }, async () => {
    const start = Date.now();
    await mkdir(folder, { recursive: true });
    await rm(join(folder, recordName), { force: true });
    forgetOtherLibtorch(out, libtorch);
    const common = ["-O", out, "-B", debug ? "Debug" : "Release", "-d", packageRoot];
    common.push(`--CDMEMFORMER_LIBTORCH=${libtorch.root}`);
    const withCuda = libtorch.variant === "cuda" && tools.nvcc !== undefined;
    common.push(`--CDMEMFORMER_CUDA=${withCuda ? "ON" : "OFF"}`);
    if (libtorch.variant === "cuda" && !withCuda) {
      report?.(
        "No nvcc on the PATH (or in CUDACXX): the CUDA half is left out, the addon will compute on the CPU alone.",
      );
    }
    if (!tools.ninja) common.push("-m");
    const cmake: CMakeRun = { env, log: join(out, "build.log"), report };
    report?.(`Compiling against LibTorch ${libtorch.version} in ${libtorch.root}, ${jobs} at a time`);
    await cmakeJs(["configure", ...common], cmake);
    try {
      await cmakeJs(["build", ...common, "-p", String(jobs)], cmake);
    } catch (error) {
      if (jobs === 1 || !ranOutOfMemory(error)) throw error;
      report?.("The compiler ran out of memory; continuing with one job.");
      await cmakeJs(["build", ...common, "-p", "1"], cmake);
    }
    const lost = [...products, ...(withCuda ? [cudaHalf] : [])].find((name) => !existsSync(join(folder, name)));
    if (lost !== undefined) throw new MemformerError("NATIVE", `The build ended without ${join(folder, lost)}.`);
    const seconds = (Date.now() - start) / 1000;
    const { root, version, variant } = libtorch;
    const record: BuildRecord = {
      package: packageVersion(),
      libtorch: { root, version, variant },
      compiler: tools.compiler ?? "",
      debug,
      ...(withCuda ? { nvcc: tools.nvcc } : {}),
      date: new Date().toISOString(),
      seconds,
    };
    await writeFile(join(folder, recordName), `${JSON.stringify(record, null, 2)}\n`);
    return { folder, seconds };
  });
}

/** CMake remembers every library it found: with another LibTorch its cache would mix the two. */
function forgetOtherLibtorch(out: string, { root }: Libtorch): void {
  const cache = join(out, "CMakeCache.txt");
  if (!existsSync(cache)) return;
  const line = readFileSync(cache, "utf8")
    .split("\n")
    .find((text) => text.startsWith("MEMFORMER_LIBTORCH:"));
  if (line?.slice(line.indexOf("=") + 1) !== root) rmSync(cache);
}
