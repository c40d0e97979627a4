/** Child processes that run a few lines against the library, and how they ended. */
import { spawn, type ChildProcess } from "node:child_process";
import { fileURLToPath, pathToFileURL } from "node:url";
import { isCompiled, loader, moduleOf } from "./compiled.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const library = JSON.stringify(pathToFileURL(moduleOf("index")).href);

/** Text for `new Worker(text, { eval: true })`: calls `body`, a function, with memformer and a way to post messages. */
export function workerText(body: string): string {
  // A worker of Node 20 has not the loader that its process was started with.
  const loaded = isCompiled ? "Promise.resolve()" : 'import("tsx/esm/api").then(({ register }) => register())';
  return `${loaded}.then(async () => {
    const { parentPort } = await import("node:worker_threads");
    return (${body})(await import(${library}), (message) => parentPort.postMessage(message));
  });`;
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly output: string;
  /** Milliseconds from the first line that holds "READY" to the end. */
  readonly sinceReady: number;
}

export interface Child {
  readonly process: ChildProcess;
  /** Resolves when it has printed READY; rejects if it ends before. */
  readonly ready: Promise<void>;
  readonly ended: Promise<Ended>;
}

export interface HowToStart {
  /** The Node to run under. Default: the running one. */
  readonly node?: string;
  /** Flags for Node. */
  readonly flags?: readonly string[];
  /** What `process.argv.slice(1)` is in the child. */
  readonly args?: readonly string[];
}

/** Starts `code`, a module's text, in a Node process of its own. `lib` in it is memformer. */
export function start(code: string, { node = process.execPath, flags = [], args = [] }: HowToStart = {}): Child {
  const text = `const lib = await import(${library});\n${code}`;
  const child = spawn(node, [...flags, ...loader, "--input-type=module", "-e", text, "--", ...args], {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, OMP_WAIT_POLICY: "passive" },
  });
  let output = "",
    readyAt = NaN;
  let becameReady: () => void, failed: (reason: Error) => void;
  const ready = new Promise<void>((resolve, reject) => {
    [becameReady, failed] = [resolve, reject];
  });
  ready.catch(() => undefined);
  const listen = (chunk: Buffer): void => {
    output += chunk.toString();
    if (Number.isNaN(readyAt) && output.includes("READY")) {
      readyAt = performance.now();
      becameReady();
    }
  };
  child.stdout.on("data", listen);
  child.stderr.on("data", listen);
  const ended = new Promise<Ended>((resolve) =>
    child.once("close", (exit, signal) => {
      failed(new Error(`ended before it was ready: ${output}`));
      resolve({ code: exit, signal, output, sinceReady: performance.now() - readyAt });
    }),
  );
  return { process: child, ready, ended };
}

/** Runs `code` to its end. */
export async function run(code: string, how: HowToStart = {}): Promise<Ended> {
  return start(code, how).ended;
}
