/**
 * Gets wheels through the user's own pip, which knows their package index, its certificates and proxies, and checks the
 * hash that the index gives. The pinned wheel's own Python tag is asked for, whichever Python runs pip.
 */
import { spawn } from "node:child_process";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Attempt } from "../load-error.ts";
import type { Report } from "./report.ts";

export interface PipResult {
  /** The downloaded wheels; none if it failed, and `problems` says why then. */
  readonly wheels: readonly string[];
  readonly problems: readonly Attempt[];
}

export interface PipOptions {
  /** Also what the requirements need. Default false. */
  readonly needs?: boolean | undefined;
  readonly report?: Report | undefined;
  readonly env?: NodeJS.ProcessEnv | undefined;
}

/** pip takes only the tags it is told, not the older ones that they include. */
const platforms = ["2_28", "2_27", "2_25", "2_18", "2_17", "2014", "2_12", "2010", "2_5", "1"].map(
  (glibc) => `manylinux${glibc.includes("_") ? "_" : ""}${glibc}_x86_64`,
);

/** Downloads what the first of `alternatives` that pip knows stands for into `folder`, which is made. */
export async function pipDownload(
  alternatives: readonly (readonly string[])[],
  folder: string,
  { needs = false, report, env = process.env }: PipOptions = {},
): Promise<PipResult> {
  await mkdir(folder, { recursive: true });
  const problems: Attempt[] = [];
  for (const requirements of alternatives) {
    report?.(`python3 -m pip download ${needs ? "" : "--no-deps "}${requirements.join(" ")}`);
    const problem = await run(requirements, folder, needs, env);
    const wheels = (await readdir(folder)).filter((name) => name.endsWith(".whl"));
    if (problem === undefined && wheels.length > 0)
      return { wheels: wheels.map((name) => join(folder, name)), problems };
    problems.push({ place: `pip download ${requirements.join(" ")}`, outcome: problem ?? "pip brought no wheel" });
  }
  return { wheels: [], problems };
}

/** The last sentence pip gave if it failed, else undefined. */
async function run(
  requirements: readonly string[],
  folder: string,
  needs: boolean,
  env: NodeJS.ProcessEnv,
): Promise<string | undefined> {
  const args = [
    "-m",
    "pip",
    "download",
    ...(needs ? [] : ["--no-deps"]),
    "--disable-pip-version-check",
    "--retries",
    "1",
    "--timeout",
    "20",
    "--only-binary=:all:",
    "--implementation",
    "cp",
    "--python-version",
    "3.11",
    "--abi",
    "cp311",
    "--abi",
    "none",
    ...platforms.flatMap((platform) => ["--platform", platform]),
    "--progress-bar",
    "off",
    "--dest",
    folder,
    ...requirements,
  ];
  const child = spawn("python3", args, { env, stdio: ["ignore", "ignore", "pipe"] });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (errors = (errors + text).slice(-4000)));
  return await new Promise((resolve) => {
    child.once("error", (error) => resolve(`python3 cannot be started (${error.message})`));
    child.once("close", (code) => {
      const last = errors
        .trim()
        .split("\n")
        .filter((line) => !line.startsWith("WARNING"))
        .at(-1);
      resolve(code === 0 ? undefined : (last ?? `pip ended with ${code}`));
    });
  });
}
