/**
 * Fetches one archive of known size and hash by URL. The bytes go to a partial file that a later run continues (HTTP
 * Range) and are hashed on the way; the file takes its final name only when size and SHA-256 are right.
 */
import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rename, rm, stat } from "node:fs/promises";
import { EnvHttpProxyAgent, fetch, type Response } from "undici";
import { MemformerError } from "../../errors.ts";
import type { PinnedFile } from "./pin.ts";
import type { Report } from "./report.ts";

export interface DownloadOptions {
  readonly report?: Report | undefined;
  /** Connections tried before giving up. Default 3; each goes on where the last one broke. */
  readonly tries?: number | undefined;
  /** Its proxy variables are honoured, in either case. Default `process.env`. */
  readonly env?: NodeJS.ProcessEnv | undefined;
}

/** A file of known size and hash, and where it is. */
type Pin = Pick<PinnedFile, "bytes" | "sha256"> & { readonly url: string };

/** The server cannot be reached or does not hand out the file: another way may do. */
export class Unreachable extends Error {}

/**
 * Downloads `pin.url` to `target`.
 *
 * @throws Unreachable when no connection brings the file.
 * @throws MemformerError `LIBTORCH_HASH` when it is not the pinned file; nothing is left behind then.
 */
export async function download(pin: Pin, target: string, options: DownloadOptions = {}): Promise<void> {
  const partial = `${target}.partial`;
  const agent = proxyAgent(options.env ?? process.env);
  try {
    let sha256 = await fetchWhole(pin, partial, agent, options);
    if (sha256.resumed && sha256.hex !== pin.sha256) {
      await rm(partial, { force: true });
      sha256 = await fetchWhole(pin, partial, agent, options);
    }
    if (sha256.hex !== pin.sha256) {
      await rm(partial, { force: true });
      throw wrongHash(pin.url, pin.sha256, sha256.hex);
    }
    await rename(partial, target);
  } finally {
    await agent.close();
  }
}

function proxyAgent(env: NodeJS.ProcessEnv): EnvHttpProxyAgent {
  return new EnvHttpProxyAgent({
    connect: { timeout: 10_000 },
    headersTimeout: 30_000,
    bodyTimeout: 60_000,
    httpProxy: env["http_proxy"] ?? env["HTTP_PROXY"] ?? "",
    httpsProxy: env["https_proxy"] ?? env["HTTPS_PROXY"] ?? "",
    noProxy: env["no_proxy"] ?? env["NO_PROXY"] ?? "",
  });
}

/** An archive that is not the one we know. Both hashes are in the message. */
function wrongHash(where: string, expected: string, found: string): MemformerError {
  const message =
    `${where} is not the file memformer knows; it was not used.\n` +
    `  SHA-256 expected  ${expected}\n  SHA-256 found     ${found}`;
  return new MemformerError("LIBTORCH_HASH", message, { details: { where, expected, found } });
}

/** SHA-256 of a file, in hexadecimal. */
export async function hashFile(path: string): Promise<string> {
  return (await feed(createHash("sha256"), path)).digest("hex");
}

async function feed(hash: Hash, path: string): Promise<Hash> {
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash;
}

type Fetched = { readonly hex: string; readonly resumed: boolean };

async function fetchWhole(
  pin: Pin,
  partial: string,
  agent: EnvHttpProxyAgent,
  { report, tries = 3 }: DownloadOptions,
): Promise<Fetched> {
  let resumed = false;
  for (let attempt = 1; ; attempt++) {
    const had = await stat(partial).then(
      ({ size }) => size,
      () => 0,
    );
    if (had === pin.bytes) return { hex: await hashFile(partial), resumed: true };
    if (had > pin.bytes) await rm(partial);
    else resumed ||= had > 0;
    try {
      return { hex: await fetchRest(pin, partial, agent, report), resumed };
    } catch (error) {
      if (error instanceof MemformerError || error instanceof Unreachable || isDisk(error)) throw error;
      if (attempt >= tries) throw new Unreachable(reason(error), { cause: error });
      const got = await stat(partial).then(
        ({ size }) => size,
        () => 0,
      );
      report?.(`The connection broke (${reason(error)}); continuing at byte ${got}.`);
    }
  }
}

async function fetchRest(
  pin: Pin,
  partial: string,
  agent: EnvHttpProxyAgent,
  report: Report | undefined,
): Promise<string> {
  const had = await stat(partial).then(
    ({ size }) => size,
    () => 0,
  );
  const headers: Record<string, string> = { "accept-encoding": "identity" };
  if (had > 0) headers["range"] = `bytes=${had}-`;
  const response = await fetch(pin.url, { dispatcher: agent, headers }).catch((error: unknown) => {
    // No answer at all: without a first byte to go on from, another way is quicker than another try.
    throw had > 0 ? error : new Unreachable(reason(error), { cause: error });
  });
  const start = startOf(response, had);
  if (start === undefined) {
    await response.body?.cancel();
    if (response.status === 416) await rm(partial, { force: true });
    throw new Unreachable(`${response.url} answered ${response.status} ${response.statusText}`.trim());
  }
  const length = response.headers.get("content-length");
  if (length !== null && start + Number(length) !== pin.bytes) {
    await response.body?.cancel();
    throw wrongSize(pin, start + Number(length));
  }
  const hash = createHash("sha256");
  if (start > 0) await feed(hash, partial);
  let done = start;
  const file = await open(partial, start > 0 ? "a" : "w");
  try {
    for await (const chunk of response.body ?? []) {
      done += (chunk as Uint8Array).length;
      if (done > pin.bytes) throw wrongSize(pin, done);
      hash.update(chunk as Uint8Array);
      await file.write(chunk as Uint8Array);
      report?.({ what: "LibTorch", done, total: pin.bytes });
    }
  } finally {
    await file.close();
  }
  if (done < pin.bytes) throw new Error(`it ended after ${done} of ${pin.bytes} bytes`);
  return hash.digest("hex");
}

/** At which byte the answer's body starts; undefined if it is not the file at all. */
function startOf(response: Response, had: number): number | undefined {
  if (response.status === 200) return 0;
  const range = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
  return response.status === 206 && Number(range?.[1]) === had ? had : undefined;
}

function wrongSize(pin: Pin, found: number): MemformerError {
  const message = `${pin.url} has ${found} bytes where the file memformer knows has ${pin.bytes}; it was not used.`;
  return new MemformerError("LIBTORCH_HASH", message, { details: { expected: pin.bytes, found } });
}

function isDisk(error: unknown): boolean {
  return ["ENOSPC", "EACCES", "EROFS", "EDQUOT"].includes(String((error as NodeJS.ErrnoException).code));
}

function reason(error: unknown): string {
  const cause = (error as Error).cause;
  return cause instanceof Error ? cause.message : (error as Error).message;
}
