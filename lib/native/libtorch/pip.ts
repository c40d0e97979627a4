/**
 * Gets the wheel through the user's own pip, which knows their package index, its certificates and proxies, and checks
 * the hash that the index gives. The pinned wheel's own Python tag is asked for, whichever Python runs pip.
 */
import { spawn } from "node:child_process";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Report } from "./report.ts";

export interface PipResult {
  /** The downloaded wheel, or undefined; `problems` says why then. */
  readonly wheel: string | undefined;
  readonly problems: readonly string[];
}

/** Downloads torch `version` for this platform into `folder`: the build named `variant` first, then plainly. */
export async function pipDownload(
  version: string, variant: string, folder: string, report?: Report, env: NodeJS.ProcessEnv = process.env,
): Promise<PipResult> {
  await mkdir(folder, { recursive: true });
  const problems: string[] = [];
  for (const requirement of [`torch==${version}+${variant}`, `torch==${version}`]) {
    report?.(`python3 -m pip download --no-deps ${requirement}`);
    const problem = await run(requirement, folder, env);
    const wheel = (await readdir(folder)).find((name) => name.endsWith(".whl"));
    if (problem === undefined && wheel !== undefined) return { wheel: join(folder, wheel), problems };
    problems.push(`${requirement}: ${problem ?? "pip brought no wheel"}`);
  }
  return { wheel: undefined, problems };
}

/** The last sentence pip gave if it failed, else undefined. */
async function run(requirement: string, folder: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const args = [
    "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--retries", "1", "--timeout", "20",
    "--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11", "--abi", "cp311",
    "--platform", "manylinux_2_28_x86_64", "--progress-bar", "off", "--dest", folder, requirement,
  ];
  const child = spawn("python3", args, { env, stdio: ["ignore", "ignore", "pipe"] });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (errors = (errors + text).slice(-4000)));
  return await new Promise((resolve) => {
    child.once("error", (error) => resolve(`python3 cannot be started (${error.message})`));
    child.once("close", (code) => {
      const last = errors.trim().split("\n").filter((line) => !line.startsWith("WARNING")).at(-1);
      resolve(code === 0 ? undefined : (last ?? `pip ended with ${code}`));
    });
  });
}
