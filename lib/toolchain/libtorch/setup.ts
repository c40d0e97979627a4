/**
 * `memformer setup`: brings one LibTorch into the cache. Work is done in a folder beside the final one, which appears
 * by a rename when everything in it is whole; a lock keeps a second process waiting until the first is done.
 */
import { existsSync, statSync } from "node:fs";
import { mkdir, rename, rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { MemformerError } from "../../errors.ts";
import { cacheFolder, readRecord, recordName, type CacheRecord } from "./cache.ts";
import { KnownHashes } from "./known-hashes.ts";
import { inspectFolder, variantName, type LibtorchFolder } from "./libtorch-folder.ts";
import { withLock } from "../../files/lock.ts";
import { obtain, type Archive } from "./obtain.ts";
import { isVariant, readPins, requireSupported, type Pins, type Variant } from "./pin.ts";
import { inMegabytes, type Report } from "./report.ts";
import { unpack } from "./unpack.ts";

export interface SetupOptions {
  /** `cpu`, or a CUDA version: `cu130`. Default `cpu`, or with `from` whatever the file is. */
  readonly variant?: string | undefined;
  /**
   * Default: the pinned one of the variant, or with `from` whatever the file is. A version without pin can come through
   * pip only.
   */
  readonly version?: string | undefined;
  /** A wheel or an official zip on this machine; for CUDA also a folder of wheels. */
  readonly from?: string | undefined;
  /** URL of a folder that holds the pinned files; then nothing else is tried. */
  readonly mirror?: string | undefined;
  /** Fetch again even if it is there. Default false. */
  readonly force?: boolean | undefined;
  readonly report?: Report | undefined;
  /** Tries to load the unpacked LibTorch: the reason if that fails. Default: not tried. */
  readonly testLoad?: ((folder: LibtorchFolder) => string | undefined) | undefined;
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

/** The LibTorch asked for; undefined: whatever a file on this machine turns out to be. */
interface Asked {
  readonly version: string | undefined;
  readonly variant: Variant | undefined;
}

/** Libraries and headers take about three times the archive; refusing early beats half a folder. */
const growth = 3;

/**
 * Provides LibTorch in the cache and returns its record.
 *
 * @throws MemformerError `CONFIG`, `LIBTORCH_HASH`, `LIBTORCH_MISMATCH`, `LIBTORCH_NOT_FOUND` (no way brought it), `IO`
 * (no room, no such file), `UNSUPPORTED_PLATFORM`, `BUSY`.
 */
export async function setup(options: SetupOptions = {}): Promise<SetupResult> {
  const { report, from, mirror, env = process.env, pins = readPins() } = options;
  const asked = wanted(options, pins);
  if (asked.version !== undefined) requireSupported(asked.version, "--version", pins, env);
  if (from === undefined) requirePlatform();
  const cache = cacheFolder(env);
  const onWait = (pid: number): void => report?.(`Process ${pid} is fetching LibTorch; waiting for it.`);
  return await withLock(join(cache, ".lock"), { onWait }, async () => {
    const name = asked.version === undefined ? undefined : `${asked.version}-${asked.variant ?? "cpu"}`;
    const present = name === undefined ? undefined : readRecord(join(cache, name));
    if (name !== undefined && present !== undefined && options.force !== true) {
      return { ...present, folder: join(cache, name), fetched: false };
    }
    const scratch = join(cache, `.partial-${name ?? "file"}`);
    const unpacked = join(scratch, "unpacked");
    try {
      await mkdir(scratch, { recursive: true });
      await rm(unpacked, { recursive: true, force: true });
      const hashes = new KnownHashes(cache, pins);
      const pin = name === undefined ? undefined : pins.pins[name];
      const archives = await obtain({
        ...asked,
        variant: asked.variant ?? "cpu",
        pin,
        hashes,
        from,
        mirror,
        scratch,
        report,
        env,
      });
      await requireRoom(scratch, growth * archives.reduce((sum, { path }) => sum + statSync(path).size, 0));
      await unpack(
        archives.map(({ path }) => path),
        unpacked,
        report,
      );
      const record = await seal(unpacked, archives, asked, options, pins, env);
      await hashes.save();
      const folder = join(cache, `${record.version}-${record.variant}`);
      await swap(unpacked, folder);
      await rm(scratch, { recursive: true, force: true });
      return { ...record, folder, fetched: true };
    } finally {
      // What remains after a failure is what the next run goes on from: archives fetched, and the part of one.
      await rm(unpacked, { recursive: true, force: true });
      await rm(join(scratch, "pip"), { recursive: true, force: true });
    }
  });
}

function wanted({ variant, version, from }: SetupOptions, pins: Pins): Asked {
  if (variant !== undefined && !isVariant(variant)) {
    const message = `--variant: expected ${Object.keys(pins.defaults).join(" or ")}, got "${variant}"`;
    throw new MemformerError("CONFIG", message, { details: { variant } });
  }
  if (from !== undefined) return { version, variant };
  const name = pins.defaults[variant ?? "cpu"];
  const found = version ?? (name === undefined ? undefined : pins.pins[name]?.version);
  if (found !== undefined) return { version: found, variant: variant ?? "cpu" };
  const message = `--variant ${variant}: there is no pinned version of it (there is one of ${Object.keys(pins.defaults).join(" and ")}). Pass --version.`;
  throw new MemformerError("CONFIG", message, { details: { variant } });
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
  unpacked: string,
  archives: readonly Archive[],
  asked: Asked,
  { testLoad }: SetupOptions,
  pins: Pins,
  env: NodeJS.ProcessEnv,
): Promise<CacheRecord> {
  const [torch, ...libraries] = archives.map(({ source, sha256, pinned }) => ({ source, sha256, pinned }));
  const { source } = torch!;
  const found = inspectFolder(unpacked);
  if ("missing" in found) {
    throw new MemformerError("LIBTORCH_MISMATCH", `${source} ${found.missing}.`, { details: { source } });
  }
  requireSupported(found.version, source, pins, env);
  const variant = variantName(found);
  if (variant === undefined) {
    throw new MemformerError("LIBTORCH_MISMATCH", `${source} is built with CUDA, and does not say with which.`, {
      details: { source },
    });
  }
  const expected = { version: asked.version ?? found.version, variant: asked.variant ?? variant };
  if (found.version !== expected.version || variant !== expected.variant) {
    const message =
      `${source} is LibTorch ${found.version} for ${variant}, where ${expected.version} for ${expected.variant} was expected. ` +
      `Pass --version ${found.version} --variant ${variant}.`;
    throw new MemformerError("LIBTORCH_MISMATCH", message, {
      details: { found: { version: found.version, variant }, expected },
    });
  }
  const reason = testLoad?.(found);
  if (reason !== undefined) {
    const remedy =
      variant === "cpu" || libraries.length > 0
        ? ""
        : " A wheel for CUDA needs those of the CUDA libraries it names beside it: --from FOLDER.";
    throw new MemformerError("LIBTORCH_MISMATCH", `${source} does not load: ${reason}.${remedy}`, {
      details: { source, reason },
    });
  }
  const record: CacheRecord = {
    version: found.version,
    variant,
    ...torch!,
    ...(libraries.length > 0 ? { libraries } : {}),
    date: new Date().toISOString(),
  };
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
