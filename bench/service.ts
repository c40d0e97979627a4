/**
 * What training costs a service in the same process: the latency of a route that has nothing to do with it, in
 * examples/fastify, idle and while a run goes on. A steady load over loopback, or with --wrk all that wrk can make; the
 * server is a process of its own, as in life. The two states take turns.   [--rounds 3] [--seconds 8] [--rate 500]
 * [--wrk]
 */
import autocannon from "autocannon";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Memformer } from "../lib/index.ts";
import type { Progress } from "../examples/fastify/training.ts";
import { flag, median, report, type Row } from "./support/report.ts";

interface Load {
  readonly seconds: number;
  /** Requests a second; undefined: as many as wrk makes. */
  readonly rate: number | undefined;
}

/** Of the requests of a round, in ms. */
interface Latency {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  readonly requestsPerSecond: number;
}

export async function service(flags: readonly string[]): Promise<boolean> {
  const wrk = flags.includes("--wrk"),
    rounds = flag(flags, "rounds", 3);
  const load: Load = { seconds: flag(flags, "seconds", 8), rate: wrk ? undefined : flag(flags, "rate", 500) };
  const folder = mkdtempSync(join(tmpdir(), "memformer-bench-")),
    rows: Row[] = [];
  const [before] = loadavg() as [number];
  let within = false;
  const ms = (value: number): string => String(Math.round(100 * value) / 100);
  try {
    await using model = await Memformer.create({ preset: "demo" });
    await model.save(join(folder, "model"));
    for (const threads of new Set([1, availableParallelism()])) {
      const { idle, busy, tokensPerSecond } = await measured(folder, threads, rounds, load);
      for (const [state, { latency }] of [
        ["idle", idle],
        ["training", busy],
      ] as const) {
        rows.push({
          "engine's threads": threads,
          state,
          "p50 ms": ms(latency("p50")),
          "p99 ms": ms(latency("p99")),
          "longest ms": ms(latency("max")),
          "requests a second": Math.round(latency("requestsPerSecond")),
          "training tok/s": state === "idle" ? "" : Math.round(tokensPerSecond),
        });
      }
      if (threads === 1) within = busy.latency("p99") - idle.latency("p99") <= 10;
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  // What else the machine did is part of the figure: above one a core, idle is not idle.
  const loadBefore = before.toFixed(1);
  const by = wrk ? { by: "wrk" } : { by: "autocannon", rate: load.rate! };
  report(
    wrk ? "service-wrk" : "service",
    "Latency of an unrelated route, beside training in the same process (medians of rounds)",
    rows,
    { rounds, seconds: load.seconds, ...by, connections, loadBefore },
  );
  return within;
}

const connections = 10;

/** The results of the rounds of one state. */
class Rounds {
  readonly results: Latency[] = [];

  latency = (of: keyof Latency): number => median(this.results.map((result) => result[of]));
}

async function measured(
  folder: string,
  threads: number,
  rounds: number,
  load: Load,
): Promise<{ idle: Rounds; busy: Rounds; tokensPerSecond: number }> {
  const server = spawn(
    process.execPath,
    [
      "--import",
      "tsx",
      fileURLToPath(new URL("../examples/fastify/server.ts", import.meta.url)),
      join(folder, "model"),
      join(folder, "data"),
      "0",
    ],
    { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, THREADS: String(threads) } },
  );
  const ended = once(server, "exit");
  try {
    const [url] = (await once(createInterface(server.stdout), "line")) as [string];
    const idle = new Rounds(),
      busy = new Rounds(),
      speeds: number[] = [];
    await loaded(url, { ...load, seconds: 3 }); // until the code is compiled
    for (let round = 0; round < rounds; round++) {
      idle.results.push(await loaded(url, load));
      await training(url, "POST", { steps: 100_000 });
      while ((await training(url, "GET")).step < 2) await new Promise((resolve) => setTimeout(resolve, 50));
      busy.results.push(await loaded(url, load));
      speeds.push((await training(url, "GET")).tokensPerSecond!);
      await training(url, "DELETE");
    }
    return { idle, busy, tokensPerSecond: median(speeds) };
  } finally {
    server.kill("SIGTERM");
    await ended;
  }
}

async function loaded(server: string, { seconds, rate }: Load): Promise<Latency> {
  const url = `${server}/health`;
  if (rate === undefined) return loadedByWrk(url, seconds);
  const {
    errors,
    non2xx,
    latency: { p50, p99, max },
    requests,
  } = await autocannon({ url, connections, duration: seconds, overallRate: rate });
  if (errors + non2xx > 0) throw new Error(`${errors} errors, ${non2xx} refusals under load`);
  return { p50, p99, max, requestsPerSecond: requests.mean };
}

async function loadedByWrk(url: string, seconds: number): Promise<Latency> {
  const { stdout } = await promisify(execFile)("wrk", ["-t1", `-c${connections}`, `-d${seconds}s`, "--latency", url]);
  if (/Socket errors|Non-2xx/.test(stdout)) throw new Error(`errors under load:\n${stdout}`);
  const ms = (pattern: RegExp): number => {
    const [, value, unit] = pattern.exec(stdout)!;
    return Number(value) * { us: 1e-3, ms: 1, s: 1e3 }[unit as "us" | "ms" | "s"];
  };
  const time = "([\\d.]+)(us|ms|s)\\b";
  return {
    p50: ms(new RegExp(`50%\\s+${time}`)),
    p99: ms(new RegExp(`99%\\s+${time}`)),
    max: ms(new RegExp(`Latency\\s+\\S+\\s+\\S+\\s+${time}`)),
    requestsPerSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)![1]),
  };
}

async function training(url: string, method: string, body?: object): Promise<Progress> {
  const answer = await fetch(`${url}/training`, {
    method,
    ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
  });
  if (!answer.ok) throw new Error(`${method} /training: ${answer.status} ${await answer.text()}`);
  return (await answer.json()) as Progress;
}
