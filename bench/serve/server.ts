/** `memformer serve` as a process of its own, as in life. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export interface RunningServer extends AsyncDisposable {
  readonly url: string;
  /** Resident bytes of its process, as its metrics say. */
  rss(): Promise<number>;
}

/** Serves `folder`/model, with its sessions in `folder`/sessions, on a free port. */
export async function startServer(folder: string, flags: readonly string[]): Promise<RunningServer> {
  const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
  const args = [main, "serve", join(folder, "model"), "--port", "0", "--log-level", "warn", "--max-turns", "1024"];
  const child = spawn(process.execPath, [...args, "--store", join(folder, "sessions"), ...flags], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let url: string | undefined;
  for await (const line of createInterface({ input: child.stderr })) {
    url = / on (http\S+)$/.exec(line)?.[1];
    if (url !== undefined) break;
    console.error(line);
  }
  if (url === undefined) throw new Error("memformer serve did not start");
  child.stderr.resume();
  child.stderr.on("data", (text: Buffer) => process.stderr.write(text));
  const base = url;
  return {
    url: base,
    rss: async () => {
      const text = await (await fetch(`${base}/metrics`)).text();
      return Number(/^process_resident_memory_bytes (\S+)$/m.exec(text)?.[1]);
    },
    [Symbol.asyncDispose]: async () => {
      if (child.exitCode !== null) return;
      child.kill("SIGTERM");
      await once(child, "exit");
    },
  };
}
