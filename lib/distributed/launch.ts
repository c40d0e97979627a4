/** Starts the ranks of one host as processes of their own, and ends them all when one has failed. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { availableParallelism, constants } from "node:os";
import { createInterface } from "node:readline";
import { MemformerError } from "../errors.ts";

const GRACE = 20_000; // milliseconds in which the others may end by themselves, saying why, after the first failure
const FORWARDED = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** How a rank has ended. */
interface Ending {
  readonly rank: number;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/**
 * Runs `node ...args` `count` times, with the variables that torchrun sets, each rank with its share of the cores.
 * Rank 0 has this process' output; the others' lines come after their rank's name, on standard error. Signals go to
 * all. Resolves with 0 when all have ended so, else with the exit code of the first that failed, once all have ended.
 */
export async function launch(count: number, args: readonly string[]): Promise<number> {
  const port = await freePort(),
    threads = Math.max(1, Math.floor(availableParallelism() / count));
  const children = Array.from({ length: count }, (_, rank) => {
    const child = spawn(process.execPath, [...process.execArgv, ...args], {
      env: {
        ...process.env,
        OMP_NUM_THREADS: process.env["OMP_NUM_THREADS"] ?? String(threads),
        RANK: String(rank),
        LOCAL_RANK: String(rank),
        WORLD_SIZE: String(count),
        LOCAL_WORLD_SIZE: String(count),
        MASTER_ADDR: "127.0.0.1",
        MASTER_PORT: String(port),
      },
      // A group of its own: what a terminal sends comes once, from here. The channel tells it when this process is
      // gone.
      detached: true,
      stdio: ["ignore", rank === 0 ? "inherit" : "pipe", rank === 0 ? "inherit" : "pipe", "ipc"],
    });
    for (const stream of [child.stdout, child.stderr])
      if (stream !== null)
        createInterface(stream).on("line", (line) => process.stderr.write(`[rank ${rank}] ${line}\n`));
    return child;
  });
  const forward = (signal: NodeJS.Signals): void => {
    for (const child of children) child.kill(signal);
  };
  for (const signal of FORWARDED) process.on(signal, forward);
  try {
    return await ended(children);
  } finally {
    for (const signal of FORWARDED) process.off(signal, forward);
  }
}

/**
 * In a process that {@link launch} has started: ends it when its launcher has gone, for nobody else would.
 */
export function endWithLauncher(): void {
  if (process.channel === undefined || process.channel === null) return;
  process.once("disconnect", () => process.exit(1));
  process.channel.unref();
}

async function ended(children: readonly ChildProcess[]): Promise<number> {
  let first: Ending | undefined, deadline: NodeJS.Timeout | undefined;
  await Promise.all(
    children.map(async (child, rank) => {
      const [code, signal] = (await once(child, "exit")) as [number | null, NodeJS.Signals | null];
      if (code === 0 || first !== undefined) return;
      first = { rank, code, signal };
      deadline = setTimeout(() => {
        for (const other of children) if (other.exitCode === null && other.signalCode === null) other.kill("SIGKILL");
      }, GRACE);
    }),
  );
  clearTimeout(deadline);
  if (first === undefined) return 0;
  const { rank, code, signal } = first;
  process.stderr.write(
    `memformer: rank ${rank} ended first, ${signal === null ? `with code ${code}` : `by ${signal}`}; all ${children.length} have been ended\n`,
  );
  return code ?? 128 + constants.signals[signal!];
}

/** A port of this machine that nobody uses now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string")
    throw new MemformerError("DISTRIBUTED", "this machine gives no port to meet at");
  return address.port;
}
