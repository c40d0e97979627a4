/** `memformer doctor`: what memformer needs and what this machine has, one row a need, with the line that mends it. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { buildFolder, readBuild } from "./build.ts";
import { isMemformerError } from "../errors.ts";
import { readRecord } from "./libtorch/cache.ts";
import { resolveLibtorch, type Libtorch } from "./libtorch/resolve.ts";
import { aptLine, findTools } from "./libtorch/tools.ts";

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
    platform(), glibc(), node(), processor(), libtorchRow(libtorch), ...tools(env), addon(libtorch, env), cudaDriver(),
    ...cudaHalf(libtorch, env),
  ];
}

/** True when nothing that is required is amiss. */
export function isHealthy(rows: readonly Row[]): boolean {
  return rows.every(({ ok, required }) => ok || !required);
}

function need(name: string, ok: boolean, found: string, remedy: string): Row {
  return { name, ok, found, required: true, ...(ok ? {} : { remedy }) };
}

function platform(): Row {
  const found = `${process.platform}-${process.arch}`;
  return need("platform", found === "linux-x64", found, "memformer runs on linux-x64 only");
}

/** The report holds the C library's version; without `excludeNetwork` it may wait for a name server. */
function glibc(): Row {
  const report = process.report as NodeJS.ProcessReport & { excludeNetwork?: boolean };
  const before = report.excludeNetwork;
  report.excludeNetwork = true;
  const { header } = report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  if (before !== undefined) report.excludeNetwork = before;
  const version = header.glibcVersionRuntime;
  const [major = 0, minor = 0] = (version ?? "").split(".").map(Number);
  const ok = major > 2 || (major === 2 && minor >= 28);
  return need("glibc", ok, version ?? "another C library", "PyTorch needs glibc 2.28: Debian 10, RHEL 8 or newer");
}

function node(): Row {
  const { node: version, napi = "0" } = process.versions as { node: string; napi?: string };
  return need("node", Number(napi) >= 9, `${version}, Node-API ${napi}`, "install Node 20.19, 22.12 or newer");
}

function processor(): Row {
  if (process.arch !== "x64" || !existsSync("/proc/cpuinfo")) {
    return { name: "processor", ok: true, found: process.arch, required: false };
  }
  const text = readFileSync("/proc/cpuinfo", "utf8");
  const model = /^model name\s*:\s*(.+)$/m.exec(text)?.[1] ?? "unknown model";
  const missing = ["avx2", "fma"].filter((feature) => !new RegExp(`^flags.*\\b${feature}\\b`, "m").test(text));
  const found = missing.length === 0 ? `${model}, AVX2` : `${model}, without ${missing.join(" and ")}`;
  return need("processor", missing.length === 0, found, "memformer is compiled for x86-64-v3 (Haswell, Zen or newer)");
}

function tryResolve(env: NodeJS.ProcessEnv): Libtorch | Error {
  try {
    return resolveLibtorch({ env });
  } catch (error) {
    if (isMemformerError(error)) return error;
    throw error;
  }
}

function libtorchRow(libtorch: Libtorch | Error): Row {
  if (libtorch instanceof Error) return need("libtorch", false, libtorch.message.split("\n")[0] ?? "", setupLine);
  const { root, version, variant, source } = libtorch;
  const origin = readRecord(root)?.source;
  const from = origin === undefined ? source : `${source}, from ${origin}`;
  return need("libtorch", true, `${version} (${variant}) in ${root} [${from}]`, setupLine);
}

/** Tools matter for compiling only: an addon that is there runs without them. */
function tools(env: NodeJS.ProcessEnv): Row[] {
  return findTools(env).all.map((tool) => {
    const ok = tool.found !== undefined;
    const found = tool.found ?? `missing: ${tool.needed}`;
    return { name: tool.name, ok, found, required: false, ...(ok ? {} : { remedy: aptLine([tool]) }) };
  });
}

function addon(libtorch: Libtorch | Error, env: NodeJS.ProcessEnv): Row {
  if (libtorch instanceof Error) return need("addon", false, "not looked at without LibTorch", setupLine);
  const record = readBuild(buildFolder(libtorch.variant));
  if (record !== undefined && record.libtorch.version !== libtorch.version) {
    const { root, version } = record.libtorch;
    return need("addon", false, `built for LibTorch ${version} in ${root}, not ${libtorch.version}`, buildLine);
  }
  const failure = tryLoad(env);
  const day = record === undefined ? "" : `, built ${record.date.slice(0, 10)} for LibTorch ${libtorch.version}`;
  return need("addon", failure === undefined, failure ?? `loads${day}`, buildLine);
}

/** Why the addon does not load, else undefined. */
function tryLoad(env: NodeJS.ProcessEnv): string | undefined {
  return inChild("load", "m.loadAddon()", env).failure;
}

/** The GPUs, or why there are none: for a LibTorch that has CUDA. */
function cudaHalf(libtorch: Libtorch | Error, env: NodeJS.ProcessEnv): Row[] {
  if (libtorch instanceof Error || libtorch.variant !== "cuda") return [];
  const { failure, said } = inChild("cuda", "console.log(m.openCuda().join(', '))", env);
  if (failure === undefined) return [{ name: "gpu", ok: true, found: said, required: false }];
  const remedy = /driver|device/.test(failure) ? "install an NVIDIA driver that fits this LibTorch's CUDA" : buildLine;
  return [{ name: "gpu", ok: false, found: failure, required: false, remedy }];
}

/** Runs an expression on a module of ours, `m`. In a child: a bad binary ends its process instead of throwing. */
function inChild(name: string, expression: string, env: NodeJS.ProcessEnv): { failure?: string; said: string } {
  const module = new URL(import.meta.url.endsWith(".ts") ? `./${name}.ts` : `./${name}.js`, import.meta.url).href;
  const program = `import(${JSON.stringify(module)}).then((m) => { ${expression} })`;
  // `-e` of this process, if it was started so, must not reach the child; loaders given with --import must.
  const loaders = process.execArgv.filter((arg, at, all) => arg.startsWith("--import") || all[at - 1] === "--import");
  const run = spawnSync(process.execPath, [...loaders, "-e", program], { env, encoding: "utf8", timeout: 60_000 });
  const said = run.stdout.trim();
  if (run.status === 0) return { said };
  const reason = /^(?:\w*Error)(?: \[\w+\])?: (.+)$/m.exec(run.stderr)?.[1];
  const end = run.signal === null ? `exit code ${run.status ?? "?"}` : `killed by ${run.signal}`;
  return { failure: reason ?? `does not load: ${end}`, said };
}

function cudaDriver(): Row {
  const places = ["x86_64-linux-gnu", ".", "wsl/lib", "../lib64", "../local/nvidia/lib64"];
  const folder = places.map((place) => join("/usr/lib", place)).find((path) => existsSync(join(path, "libcuda.so.1")));
  const found = folder === undefined ? "no libcuda.so.1: CPU only" : join(folder, "libcuda.so.1");
  return { name: "cuda driver", ok: folder !== undefined, found, required: false };
}
