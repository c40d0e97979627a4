/**
 * Two processes over one Redis: a session goes from one to the other when its owner lets go of it, and when it dies.
 * `npx tsx examples/service/redis.ts MODEL_FOLDER REDIS_URL`
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { setTimeout as wait } from "node:timers/promises";

const [, , folder, redis] = process.argv;
if (folder === undefined || redis === undefined) throw new Error("usage: redis.ts MODEL_FOLDER REDIS_URL");

async function start(port: number): Promise<ChildProcess> {
  const program = fileURLToPath(new URL("redis-process.ts", import.meta.url));
  const child = spawn(process.execPath, [...process.execArgv, program, folder!, redis!, String(port)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: child.stdout })) if (line.startsWith("listening")) return child;
  throw new Error(`the process on port ${port} did not start`);
}

interface Answer {
  readonly text?: string;
  readonly position?: number;
  readonly error?: { readonly message: string };
}

/** Asks a process; where another owns the session it says which, and that one is asked. */
async function ask(port: number, path: string, body: object = {}): Promise<Answer & { readonly id: string }> {
  const init = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(`http://127.0.0.1:${port}${path}`, init);
  const owner = response.headers.get("memformer-owner");
  if (owner === null) return (await response.json()) as Answer & { id: string };
  console.log(`  ${port} answers ${response.status}: ${owner} has it`);
  return ask(Number(new URL(owner).port), path, body);
}

const base = 4800 + (process.pid % 1000),
  [one, two] = [base, base + 1] as const;
const processes = new Map([
  [one, await start(one)],
  [two, await start(two)],
]);
try {
  const { id } = await ask(one, "/v1/sessions");
  const say = async (port: number, text: string): Promise<void> => {
    const answer = await ask(port, `/v1/sessions/${id}/generate`, { text, maxTokens: 24, seed: 1 });
    console.log(`  ${JSON.stringify(answer.text ?? answer.error!.message)}, position ${answer.position ?? "?"}`);
  };
  console.log("The first process reads and writes:");
  await say(one, "Call me Ishmael.");
  console.log("The second is asked for the same session:");
  await say(two, " Some years ago");
  console.log("The first is killed; once its lease has run out the second takes over, and nothing is lost:");
  processes.get(one)!.kill("SIGKILL");
  await wait(2500);
  await say(two, " never mind how long");
} finally {
  for (const child of processes.values()) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill("SIGTERM");
    await once(child, "exit");
  }
}
