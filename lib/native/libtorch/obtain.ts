/** Gets the archive of one LibTorch onto this disk: from the file that was named, by the pinned URL, or through pip. */
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { MemformerError } from "../../errors.ts";
import type { CacheRecord } from "./cache.ts";
import { download, hashFile, Unreachable } from "./download.ts";
import type { Pin } from "./pin.ts";
import { pipDownload } from "./pip.ts";
import { inMegabytes, type Report } from "./report.ts";

/** An archive on disk and where it is from. */
export interface Archive extends Pick<CacheRecord, "source" | "sha256" | "pinned"> {
  readonly path: string;
}

export interface Wanted {
  readonly version: string;
  readonly pin: Pin | undefined;
  readonly from: string | undefined;
  readonly mirror: string | undefined;
  /** Where downloads may lie. */
  readonly scratch: string;
  readonly report: Report | undefined;
  readonly env: NodeJS.ProcessEnv;
}

/**
 * Returns the archive, its hash known.
 *
 * @throws MemformerError `LIBTORCH_NOT_FOUND` when no way brought it, `LIBTORCH_HASH` when what came by URL is another
 * file, `IO` when the named file does not exist.
 */
export async function obtain(wanted: Wanted): Promise<Archive> {
  const { version, pin, from, mirror, scratch, report, env } = wanted;
  if (from !== undefined) return await fromFile(from, pin, report);
  const problems: string[] = [];
  if (pin !== undefined) {
    const url = mirror === undefined ? pin.url : `${mirror.replace(/\/$/, "")}/${basename(pin.url)}`;
    const path = join(scratch, decodeURIComponent(basename(pin.url)));
    report?.(`Fetching ${url} (${inMegabytes(pin.bytes)})`);
    try {
      await download({ ...pin, url }, path, { report, env });
      return { path, source: url, sha256: pin.sha256, pinned: true };
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      problems.push(`${url}: ${error.message}`);
      report?.(`  not reachable: ${error.message}`);
    }
  }
  if (mirror !== undefined) {
    if (pin === undefined) problems.push(`--mirror serves pinned files only, and ${version} is not pinned`);
    throw unobtainable(version, problems);
  }
  const pip = await pipDownload(version, "cpu", join(scratch, "pip"), report, env);
  if (pip.wheel === undefined) throw unobtainable(version, [...problems, ...pip.problems]);
  return await describe(pip.wheel, `pip: ${basename(pip.wheel)}`, pin, report);
}

async function fromFile(from: string, pin: Pin | undefined, report: Report | undefined): Promise<Archive> {
  const path = resolve(from);
  if (!existsSync(path)) {
    throw new MemformerError("IO", `--from ${from}: there is no such file.`, { details: { path } });
  }
  return await describe(path, `file: ${path}`, pin, report);
}

/** Hashes an archive that did not come by our URL, and says how it stands to the pin. */
async function describe(
  path: string, source: string, pin: Pin | undefined, report: Report | undefined,
): Promise<Archive> {
  const sha256 = await hashFile(path);
  const pinned = sha256 === pin?.sha256;
  if (pinned) report?.(`SHA-256 ${sha256} is the pinned one.`);
  else if (pin === undefined) report?.(`SHA-256 ${sha256}; there is no pin to compare it with.`);
  else report?.(`SHA-256 ${sha256}\n pinned ${pin.sha256}: another file, recorded as "${source}".`);
  return { path, source, sha256, pinned };
}

function unobtainable(version: string, problems: readonly string[]): MemformerError {
  const message = [
    `LibTorch ${version} could not be fetched.`,
    ...problems.map((problem) => `  ${problem}`),
    "  1. behind a proxy, set HTTPS_PROXY; with a mirror:  npx memformer setup --mirror URL",
    "  2. from a wheel or zip brought by other means:      npx memformer setup --from FILE",
    "  3. or use a Python install:                         MEMFORMER_LIBTORCH=python",
  ].join("\n");
  return new MemformerError("LIBTORCH_NOT_FOUND", message, { details: { version, problems } });
}
