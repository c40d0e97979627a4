/** The PyTorch program of bench/peers: one process, many rows, each read as it comes. */
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Segment } from "../../lib/index.ts";
import { tensorEntry, writeSafetensors } from "../../lib/checkpoint/safetensors.ts";

/** What bench/peers/train.py is asked for in a row; its flags of the same names say more. */
export interface PeerRequest {
  readonly batch: number;
  readonly horizon: number;
  readonly method: string;
  readonly precision: string;
  readonly compile: boolean;
  readonly graphs: boolean;
  readonly warmup: number;
  readonly windows: number;
  /** Files. */
  readonly config: string;
  readonly weights: string;
  readonly window: string;
}

export interface PeerRow {
  readonly error?: string;
  readonly tokensPerSecond: number;
  readonly tokensPerSecondIqr: readonly [number, number];
  readonly peakBytes: number;
  /** Of the first window. */
  readonly losses: readonly number[];
  readonly norm: number;
  readonly deviceName: string;
  readonly torch: string;
  readonly cuda: string;
}

const python = process.env["MEMFORMER_PYTHON"] ?? "python3";

/** Writes source and target (S, B, T) and reset (S, B), as bench/peers reads a window. */
export async function writeWindow(path: string, segments: readonly Segment[]): Promise<void> {
  const { batch, length } = segments[0]!,
    S = segments.length;
  const joined = (arrays: readonly (Int32Array | Uint8Array)[]): Uint8Array =>
    Buffer.concat(arrays.map((array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)));
  await writeSafetensors(path, [
    tensorEntry("source", {
      dtype: "int32",
      shape: [S, batch, length],
      data: joined(segments.map(({ source }) => source)),
    }),
    tensorEntry("target", {
      dtype: "int32",
      shape: [S, batch, length],
      data: joined(segments.map(({ target }) => target)),
    }),
    tensorEntry("reset", { dtype: "uint8", shape: [S, batch], data: joined(segments.map(({ reset }) => reset)) }),
  ]);
}

/**
 * Runs the requests in one process on the GPU; yields a row for each, in order. Throws when the program ends before.
 */
export async function* runPeers(folder: string, requests: readonly PeerRequest[]): AsyncGenerator<PeerRow> {
  if (requests.length === 0) return;
  const plan = join(folder, "plan.json");
  writeFileSync(plan, JSON.stringify(requests));
  const program = fileURLToPath(new URL("../peers/train.py", import.meta.url));
  const child = spawn(python, [program, "--device", "cuda", "--plan", plan], { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise<number | null>((resolve, reject) => child.once("error", reject).once("close", resolve));
  ended.catch(() => undefined);
  let rows = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    if (!line.startsWith("{")) continue;
    rows += 1;
    yield JSON.parse(line) as PeerRow;
  }
  const code = await ended;
  if (code === 0 && rows === requests.length) return;
  throw new Error(`${python} ${program} ended with ${code} after ${rows} of ${requests.length} rows`);
}
