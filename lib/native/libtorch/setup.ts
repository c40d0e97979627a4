/**
 * `memformer setup`: brings one LibTorch into the cache. Work is done in a folder beside the final one, which appears
 * by a rename when everything in it is whole; a lock keeps a second process waiting until the first is done.
 */
import { existsSync, statSync } from "node:fs";
import { mkdir, rename, rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { MemformerError } from "../../errors.ts";
import { cacheFolder, readRecord, recordName, type CacheRecord } from "./cache.ts";
import { inspectFolder } from "./layout.ts";
import { withLock } from "./lock.ts";
import { obtain, type Archive } from "./obtain.ts";
import { readPins, requireSupported, type Pins } from "./pin.ts";
import { inMegabytes, type Report } from "./report.ts";
import { unpack } from "./unpack.ts";

export interface SetupOptions {
  /** Default: the pinned one, or with `from` whatever the file is. A version without pin can come through pip only. */
  readonly version?: string | undefined;
  /** A wheel or an official zip on this machine. */
  readonly from?: string | undefined;
  /** URL of a folder that holds the pinned file; then nothing else is tried. */
  readonly mirror?: string | undefined;
  /** Fetch again even if it is there. Default false. */
  readonly force?: boolean | undefined;
  readonly report?: Report | undefined;
  /** Default `process.env`. */
  readonly env?: NodeJS.ProcessEnv | undefined;
  /** Default: those of the package. */
  readonly pins?: Pins | undefined;
}

export interface SetupResult extends CacheRecord {
  readonly folder: string;
  /** False when it was there already. */
  readonly fetched: boolean;
}

/** Libraries and headers take about three times the archive; refusing early beats half a folder. */
const growth = 3;

/**
 * Provides LibTorch for the CPU in the cache and returns its record.
 *
 * @throws MemformerError `LIBTORCH_HASH`, `LIBTORCH_MISMATCH`, `LIBTORCH_NOT_FOUND` (no way brought it), `IO` (no room,
 * no such file), `UNSUPPORTED_PLATFORM`, `BUSY`.
 */
export async function setup(options: SetupOptions = {}): Promise<SetupResult> {
  const { report, from, mirror, env = process.env, pins = readPins() } = options;
  const fallback = from === undefined ? pins.pins[pins.default]?.version : undefined;
  const version = options.version ?? fallback;
  if (version !== undefined) requireSupported(version, "--version", pins, env);
  if (from === undefined) requirePlatform();
  const cache = cacheFolder(env);
  const onWait = (pid: number): void => report?.(`Process ${pid} is fetching LibTorch; waiting for it.`);
  return await withLock(join(cache, ".lock"), { onWait }, async () => {
    const present = version === undefined ? undefined : readRecord(join(cache, `${version}-cpu`));
    if (present !== undefined && options.force !== true) {
      return { ...present, folder: join(cache, `${version}-cpu`), fetched: false };
    }
    const scratch = join(cache, `.partial-${version ?? "file"}`);
    const unpacked = join(scratch, "unpacked");
    try {
      await mkdir(scratch, { recursive: true });
      await rm(unpacked, { recursive: true, force: true });
      const pin = pins.pins[version === undefined ? pins.default : `${version}-cpu`];
      const archive = await obtain({ version: version ?? "", pin, from, mirror, scratch, report, env });
      await requireRoom(scratch, growth * statSync(archive.path).size);
      await unpack(archive.path, unpacked, report);
      const record = await seal(unpacked, archive, version, pins, env);
      const folder = join(cache, `${record.version}-cpu`);
      await swap(unpacked, folder);
      await rm(scratch, { recursive: true, force: true });
      return { ...record, folder, fetched: true };
    } finally {
      // What remains after a failure is the part of a download that the next run goes on from.
      await rm(unpacked, { recursive: true, force: true });
      await rm(join(scratch, "pip"), { recursive: true, force: true });
    }
  });
}

function requirePlatform(): void {
  if (process.platform === "linux" && process.arch === "x64") return;
  const target = `${process.platform}-${process.arch}`;
  const message = `There is a LibTorch to fetch for linux-x64, none for ${target}. Set MEMFORMER_LIBTORCH to one.`;
  throw new MemformerError("UNSUPPORTED_PLATFORM", message, { details: { target } });
}

async function requireRoom(folder: string, needed: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  const free = bavail * bsize;
  if (free >= needed) return;
  const message = `${folder} has ${inMegabytes(free)} free; unpacking LibTorch needs ${inMegabytes(needed)}.`;
  throw new MemformerError("IO", `${message} Make room, or set XDG_CACHE_HOME.`, { details: { folder, free, needed } });
}

/** Looks at what was unpacked and writes the record, the last file of all. */
async function seal(
  unpacked: string, archive: Archive, version: string | undefined, pins: Pins, env: NodeJS.ProcessEnv,
): Promise<CacheRecord> {
  const { source, sha256, pinned } = archive;
  const found = inspectFolder(unpacked);
  if ("missing" in found) {
    throw new MemformerError("LIBTORCH_MISMATCH", `${source} ${found.missing}.`, { details: { source } });
  }
  requireSupported(found.version, source, pins, env);
  if (found.variant !== "cpu" || (version !== undefined && found.version !== version)) {
    const message =
      `${source} is LibTorch ${found.version} for ${found.variant}, where ${version ?? "one"} for cpu was expected. ` +
      (found.variant === "cpu" ? `Say --version ${found.version}.` : "Install it yourself and set MEMFORMER_LIBTORCH.");
    throw new MemformerError("LIBTORCH_MISMATCH", message, { details: { found, expected: version } });
  }
  const date = new Date().toISOString();
  const record: CacheRecord = { version: found.version, variant: "cpu", source, sha256, pinned, date };
  await writeFile(join(unpacked, recordName), `${JSON.stringify(record, null, 2)}\n`);
  return record;
}

/** Puts the new folder in the old one's place, which is empty only between two renames. */
async function swap(unpacked: string, folder: string): Promise<void> {
  const old = `${folder}.old`;
  await rm(old, { recursive: true, force: true });
  if (existsSync(folder)) await rename(folder, old);
  await rename(unpacked, folder);
  await rm(old, { recursive: true, force: true });
}
