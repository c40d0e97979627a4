/** The command line as a child process, and a text to feed it. */
import { resolveLibtorch } from "../../lib/toolchain/libtorch/resolve.ts";
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { loader, moduleOf } from "./compiled.ts";

const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A folder of its own for each suite: its working directory, its cache, a text of 12 kB in 8 documents. */
export class Bench {
  readonly folder = mkdtempSync(join(tmpdir(), "memformer-cli-"));
  readonly text = join(this.folder, "text.txt");

  constructor() {
    const chapter = (n: number): string =>
      `Chapter ${n}. ${`The whale, naïve as ${n * n}, swam on; the ship went ${n} miles. `.repeat(25)}\n`;
    writeFileSync(this.text, Array.from({ length: 8 }, (_, n) => chapter(n + 1)).join("\f\n"));
  }

  path(...parts: string[]): string {
    return join(this.folder, ...parts);
  }

  /** Starts the command line. */
  start(...args: string[]): { child: ChildProcess; ended: Promise<Outcome> } {
    return this.#spawn([...this.program, ...args]);
  }

  /** Node's arguments for the command line. */
  readonly program = [...loader, moduleOf("cli/main")];

  /** Of this process, as it is now. One thread of operators: several wait for each other on a busy machine. */
  get env(): NodeJS.ProcessEnv {
    return {
      // The caches of text are the test's own; LibTorch is the one that this process found.
      ...process.env,
      MEMFORMER_LIBTORCH: resolveLibtorch().root,
      XDG_CACHE_HOME: this.path("cache"),
      OMP_NUM_THREADS: "1",
      NODE_NO_WARNINGS: "1",
    };
  }

  /** Starts a TypeScript program. */
  node(program: string, ...args: string[]): { child: ChildProcess; ended: Promise<Outcome> } {
    return this.#spawn(["--import", tsx, program, ...args]);
  }

  #spawn(args: readonly string[]): { child: ChildProcess; ended: Promise<Outcome> } {
    const child = spawn(process.execPath, args, { cwd: this.folder, env: this.env });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (piece) => {
      stdout += String(piece);
    });
    child.stderr.on("data", (piece) => {
      stderr += String(piece);
    });
    const ended = new Promise<Outcome>((resolve) => {
      child.on("close", (code) => {
        resolve({ code, stdout, stderr });
      });
    });
    return { child, ended };
  }

  async run(...args: string[]): Promise<Outcome> {
    const { child, ended } = this.start(...args);
    child.stdin!.end();
    return ended;
  }

  /** A run's log without what differs from machine to machine. */
  async log(run: string): Promise<Record<string, unknown>[]> {
    const lines = (await readFile(this.path(run, "log.jsonl"), "utf8")).trim().split("\n");
    return lines.map((line) =>
      Object.fromEntries(
        Object.entries(JSON.parse(line) as Record<string, unknown>).filter(
          ([name]) => name !== "time" && !name.startsWith("run/"),
        ),
      ),
    );
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A model that learns in milliseconds a step, the same at each of them whatever their number. */
export const tiny = [
  "--preset",
  "tiny",
  "--lanes",
  "4",
  "--horizon",
  "2",
  "--schedule",
  "constant",
  "--warmup",
  "0",
  "--threads",
  "1",
  "--dropout",
  "0.1",
];
