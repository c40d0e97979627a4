/** The tools that compiling needs, looked at before anything runs, so that all that miss are named at once. */
import { spawnSync } from "node:child_process";
import { MemformerError } from "../../errors.ts";

/** One tool: what was found, or undefined, and the Debian package that has it. */
export interface Tool {
  readonly name: string;
  readonly found: string | undefined;
  readonly needed: string;
  readonly aptPackage: string;
}

/** How compilation is done here. */
export interface Tools {
  readonly all: readonly Tool[];
  readonly ninja: boolean;
  /** CUDA's compiler: `CUDACXX`, else `nvcc`; needed for a GPU alone. */
  readonly nvcc: string | undefined;
  readonly compiler: string | undefined;
}

/** The lines of `command --version`, or undefined if it cannot be started. */
function versionLines(command: string, env: NodeJS.ProcessEnv): string[] | undefined {
  const run = spawnSync(command, ["--version"], { env, encoding: "utf8", timeout: 20_000 });
  return run.status === 0 ? run.stdout.trim().split("\n") : undefined;
}

const ask = (command: string, env: NodeJS.ProcessEnv): string | undefined => versionLines(command, env)?.[0]?.trim();
/** nvcc says its name first and its version last. */
const askLast = (command: string, env: NodeJS.ProcessEnv): string | undefined =>
  versionLines(command, env)?.at(-1)?.trim();

/** `found` if the version in it is at least `from`, else undefined. */
function atLeast(found: string | undefined, from: readonly [number, number]): string | undefined {
  const match = /(\d+)\.(\d+)(?:\.\d+)?\s*$|version (\d+)\.(\d+)/.exec(found ?? "");
  if (match === null) return undefined;
  const [major, minor] = [Number(match[1] ?? match[3]), Number(match[2] ?? match[4])];
  return major > from[0] || (major === from[0] && minor >= from[1]) ? found : undefined;
}

/** Looks for CMake, a C++20 compiler (`CXX`, else `c++`), ninja or make. */
export function findTools(env: NodeJS.ProcessEnv = process.env): Tools {
  const compiler = ask(env["CXX"] || "c++", env) ?? ask("g++", env);
  const modern = compiler?.includes("clang") === true ? atLeast(compiler, [11, 0]) : atLeast(compiler, [10, 0]);
  const ninja = ask("ninja", env);
  return {
    all: [
      { name: "cmake", found: atLeast(ask("cmake", env), [3, 18]), needed: "CMake >= 3.18", aptPackage: "cmake" },
      { name: "c++", found: modern, needed: "g++ >= 10 or clang++ >= 11", aptPackage: "g++" },
      { name: "ninja", found: ninja ?? ask("make", env), needed: "ninja or make", aptPackage: "ninja-build" },
    ],
    ninja: ninja !== undefined,
    nvcc: askLast(env["CUDACXX"] || "nvcc", env),
    compiler,
  };
}

/** The one line that installs `tools` on Debian and Ubuntu. */
export function aptLine(tools: readonly Tool[]): string {
  return `sudo apt-get install -y ${tools.map(({ aptPackage }) => aptPackage).join(" ")}`;
}

/** Throws `ERR_MEMFORMER_TOOLS_MISSING`, naming every tool that is absent or too old. */
export function requireTools(tools: Tools): void {
  const missing = tools.all.filter(({ found }) => found === undefined);
  if (missing.length === 0) return;
  const message =
    "Tools to compile memformer are missing:\n" +
    missing.map(({ needed }) => `  ${needed}\n`).join("") +
    `On Debian or Ubuntu:  ${aptLine(missing)}`;
  throw new MemformerError("TOOLS_MISSING", message, { details: { missing: missing.map(({ name }) => name) } });
}
