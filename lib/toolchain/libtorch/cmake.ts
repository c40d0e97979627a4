/** Runs cmake-js as a child, so that its output can be kept, counted and searched for what went wrong. */
import { spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { MemformerError } from "../../errors.ts";
import { packageRoot } from "./pin.ts";
import type { Report } from "./report.ts";

/** An outer make or npm must not steer the inner build. */
function childEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const outer = /^(MAKEFLAGS|MFLAGS|MAKELEVEL|MAKEOVERRIDES|GNUMAKEFLAGS|npm_config_cmake_.*)$/i;
  return Object.fromEntries(Object.entries(env).filter(([name]) => !outer.test(name)));
}

export interface CMakeRun {
  readonly env: NodeJS.ProcessEnv;
  /** File that takes every line of the output. */
  readonly log: string;
  readonly report: Report | undefined;
}

/** Runs one command of cmake-js; ninja's and make's counts become progress, everything goes to the log. */
export async function cmakeJs(args: string[], { env, log, report }: CMakeRun): Promise<void> {
  const manifest = createRequire(import.meta.url).resolve("cmake-js/package.json");
  const program = join(dirname(manifest), "bin", "cmake-js");
  const child = spawn(process.execPath, [program, ...args], {
    cwd: packageRoot,
    env: childEnvironment(env),
    stdio: ["ignore", "pipe", "pipe"],
  });
  const file = createWriteStream(log, { flags: args[0] === "configure" ? "w" : "a" });
  const lines: string[] = [];
  const take = (line: string): void => {
    file.write(`${line}\n`);
    lines.push(line);
    const step = /^\[\s*(?:(\d+)\/(\d+)|\d+%)\] (?:Building|Linking) \S+ .*?([^/\s]+?)(?:\.o)?$/.exec(line);
    if (step !== null) report?.(line.slice(0, line.indexOf("]") + 2) + (step[3] ?? ""));
  };
  createInterface({ input: child.stdout }).on("line", take);
  createInterface({ input: child.stderr }).on("line", take);
  const code = await new Promise<number | null>((done, fail) => child.once("error", fail).once("close", done));
  await new Promise<void>((done) => file.end(done));
  if (code === 0) return;
  const said = lines.filter((line) => !line.startsWith("ERROR OMG")); // cmake-js's own, which says nothing
  const words = said.filter((line) => /error|undefined reference|killed|out of memory/i.test(line)).slice(0, 12);
  const shown = (words.length > 0 ? words : said.slice(-12)).map((line) => `  ${line}`).join("\n");
  const message = `cmake-js ${args[0] ?? ""} failed:\n${shown}\n  all of it: ${log}`;
  throw new MemformerError("NATIVE", message, { details: { log, outOfMemory: memoryWords.test(lines.join("\n")) } });
}

const memoryWords = /Killed signal terminated program|cc1plus.*out of memory|virtual memory exhausted|std::bad_alloc/;

/** Whether a failed {@link cmakeJs} failed because the compiler was killed for memory. */
export function ranOutOfMemory(error: unknown): boolean {
  return error instanceof MemformerError && error.details?.["outOfMemory"] === true;
}
