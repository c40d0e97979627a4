/** `memformer doctor`: what memformer needs and what this machine has, one row a need, with the line that mends it. */
import { dirname } from "node:path";
import { findBinary, publishedVersions } from "./binary.ts";
import { readBuild } from "../toolchain/build.ts";
import { inChild } from "./child.ts";
import { isMemformerError } from "../errors.ts";
import { readRecord } from "../toolchain/libtorch/cache.ts";
import { minorVersion, packageVersion } from "../toolchain/libtorch/pin.ts";
import { resolveLibtorch, type Libtorch } from "../toolchain/libtorch/resolve.ts";
import { aptLine, findTools } from "../toolchain/libtorch/tools.ts";
import { cudaDriver, cudaVersionOf, findLibtorch } from "./load.ts";
import { demands, thisMachine } from "./platform.ts";

export interface Row {
  readonly name: string;
  readonly ok: boolean;
  readonly found: string;
  /** One line that mends it. */
  readonly remedy?: string | undefined;
  /** False where memformer works without it. */
  readonly required: boolean;
}

const setupLine = "npx memformer setup";
const buildLine = "npx memformer build";

/** Looks at everything; takes about a second, changes nothing, fetches nothing. */
export function doctor(env: NodeJS.ProcessEnv = process.env): Row[] {
  const libtorch = tryResolve(env);
  return [
    packageRow(),
    ...demands(thisMachine()).map(({ name, ok, found, needed }) => need(name, ok, found, needed)),
    libtorchRow(libtorch),
    addon(libtorch, env),
    driver(),
    ...cudaHalf(libtorch, env),
    ...tools(env),
  ];
}

/** True when nothing that is required is amiss. */
export function isHealthy(rows: readonly Row[]): boolean {
  return rows.every(({ ok, required }) => ok || !required);
}

function need(name: string, ok: boolean, found: string, remedy: string): Row {
  return { name, ok, found, required: true, ...(ok ? {} : { remedy }) };
}

function tryResolve(env: NodeJS.ProcessEnv): Libtorch | Error {
  try {
    return findLibtorch(env);
  } catch (error) {
    if (!isMemformerError(error)) throw error;
    try {
      return resolveLibtorch({ env }); // one without a binary for it: that is the addon's row
    } catch {
      return error;
    }
  }
}

function libtorchRow(libtorch: Libtorch | Error): Row {
  if (libtorch instanceof Error) return need("libtorch", false, libtorch.message.split("\n")[0] ?? "", setupLine);
  const { root, version, variant, source } = libtorch;
  // With CUDA's libraries beside it, LibTorch is a folder deeper than its record.
  const origin = (readRecord(root) ?? readRecord(dirname(root)))?.source;
  const from = origin === undefined ? source : `${source}, from ${origin}`;
  return need("libtorch", true, `${version} (${variant}) in ${root} [${from}]`, setupLine);
}

/** Tools matter for compiling only: a binary that is there runs without them. */
function tools(env: NodeJS.ProcessEnv): Row[] {
  return findTools(env).all.map((tool) => {
    const ok = tool.found !== undefined;
    const found = tool.found ?? `${tool.needed}: needed only for \`memformer build\``;
    return { name: tool.name, ok, found, required: false, ...(ok ? {} : { remedy: aptLine([tool]) }) };
  });
}

function addon(libtorch: Libtorch | Error, env: NodeJS.ProcessEnv): Row {
  if (libtorch instanceof Error) return need("addon", false, "not looked at without LibTorch", setupLine);
  const binary = findBinary(libtorch);
  if ("attempts" in binary) {
    const found = binary.attempts.map(({ outcome }) => outcome).join("; ");
    return need("addon", false, `none for LibTorch ${libtorch.version}: ${found}`, buildLine);
  }
  const { failure } = inChild("load", "m.loadAddon()", { ...env, MEMFORMER_LIBTORCH: libtorch.root });
  const day = readBuild(binary.folder)?.date.slice(0, 10);
  const from = binary.local ? `compiled here${day === undefined ? "" : ` on ${day}`}` : "published";
  return need(
    "addon",
    failure === undefined,
    failure ?? `loads; ${from}, for LibTorch ${minorVersion(libtorch.version)}`,
    buildLine,
  );
}

/** The GPUs, or why there are none: for a LibTorch that has CUDA. */
function cudaHalf(libtorch: Libtorch | Error, env: NodeJS.ProcessEnv): Row[] {
  if (libtorch instanceof Error || libtorch.variant !== "cuda") return [];
  const { failure, said } = inChild("cuda", "console.log(m.openCuda().map((gpu) => gpu.name).join(', '))", env);
  if (failure === undefined) return [{ name: "gpu", ok: true, found: said, required: false }];
  const remedy = /driver|device/.test(failure) ? "install an NVIDIA driver that fits this LibTorch's CUDA" : buildLine;
  return [{ name: "gpu", ok: false, found: failure, required: false, remedy }];
}

function driver(): Row {
  const driver = cudaDriver(),
    ok = typeof driver === "number";
  return {
    name: "cuda driver",
    ok,
    found: ok ? `serves CUDA up to ${cudaVersionOf(driver)}` : `${driver}; the CPU computes`,
    required: false,
  };
}

/** The binaries in this package. */
function packageRow(): Row {
  const there = publishedVersions();
  const binaries =
    there.length === 0 ? "no binaries: a clone, or built without them" : `binaries for LibTorch ${there.join(", ")}`;
  return { name: "memformer", ok: true, found: `${packageVersion()}, ${binaries}`, required: true };
}
