/** Gets the archives of one LibTorch onto this disk: from what was named, by the pinned URLs, or through pip. */
import { existsSync, statSync } from "node:fs";
import { readdir, rename, rm } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { MemformerError } from "../../errors.ts";
import { loadError, type Attempt } from "../load-error.ts";
import type { Provenance } from "./cache.ts";
import { download, hashFile, Unreachable } from "./download.ts";
import type { KnownHashes } from "./known-hashes.ts";
import type { Pin, PinnedFile, Variant } from "./pin.ts";
import { pipDownload } from "./pip.ts";
import { inMegabytes, type Report } from "./report.ts";
import { cudaRequirements } from "./wheel-needs.ts";

/** An archive on disk and where it is from. */
export interface Archive extends Provenance {
  readonly path: string;
}

export interface Wanted {
  /** Undefined with `from` alone: whatever the file is. */
  readonly version: string | undefined;
  readonly variant: Variant;
  readonly pin: Pin | undefined;
  readonly hashes: KnownHashes;
  readonly from: string | undefined;
  readonly mirror: string | undefined;
  /** Where downloads may lie. */
  readonly scratch: string;
  readonly report: Report | undefined;
  readonly env: NodeJS.ProcessEnv;
}

/**
 * Returns the archives, PyTorch's own first, their hashes known.
 *
 * @throws MemformerError `LIBTORCH_NOT_FOUND` when no way brought one, `LIBTORCH_HASH` when what came is another file
 * than the one that is known, `IO` when what was named does not exist.
 */
export async function obtain(wanted: Wanted): Promise<Archive[]> {
  if (wanted.from !== undefined) return await fromDisk(wanted.from, wanted);
  if (wanted.pin === undefined) return await unpinned(wanted);
  const archives: Archive[] = [];
  for (const file of wanted.pin.files) archives.push(await pinned(file, wanted));
  return archives;
}

async function pinned(file: PinnedFile, wanted: Wanted): Promise<Archive> {
  const { mirror, scratch, report, env } = wanted;
  const path = join(scratch, file.file);
  const url = mirror === undefined ? file.url : `${mirror.replace(/\/$/, "")}/${encodeURIComponent(file.file)}`;
  const problems: Attempt[] = [];
  const brought: Archive = { path, source: url ?? `pip: ${file.file}`, sha256: file.sha256, pinned: true };
  if (await isThere(path, file)) return brought;
  if (url !== undefined) {
    report?.(`Fetching ${url} (${inMegabytes(file.bytes)})`);
    try {
      await download({ ...file, url }, path, { report, env });
      return brought;
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      problems.push({ place: url, outcome: error.message });
      report?.(`  not reachable: ${error.message}`);
    }
  }
  if (mirror !== undefined) throw unobtainable(wanted, problems);
  const plain = file.requirement.replace(/\+.*$/, "");
  const pip = await pipDownload(
    [...new Set([file.requirement, plain])].map((name) => [name]),
    join(scratch, "pip"),
    { report, env },
  );
  const wheel = pip.wheels[0];
  if (wheel === undefined) throw unobtainable(wanted, [...problems, ...pip.problems]);
  const archive = await describe(wheel, `pip: ${basename(wheel)}`, wanted, file);
  await rename(wheel, path);
  return { ...archive, path };
}

/** What an earlier try has fetched to the end. */
async function isThere(path: string, { bytes, sha256 }: PinnedFile): Promise<boolean> {
  if (!existsSync(path)) return false;
  if (statSync(path).size === bytes && (await hashFile(path)) === sha256) return true;
  await rm(path);
  return false;
}

/** A version of which we know no hash: pip alone can tell what it consists of. */
async function unpinned(wanted: Wanted): Promise<Archive[]> {
  const { version = "", variant, mirror, scratch, report, env } = wanted;
  if (mirror !== undefined) {
    throw unobtainable(wanted, [
      { place: "--mirror", outcome: `serves pinned files only, and ${version} for ${variant} is not pinned` },
    ]);
  }
  const folder = join(scratch, "pip");
  const pip = await pipDownload([[`torch==${version}+${variant}`], [`torch==${version}`]], folder, { report, env });
  const torch = pip.wheels[0];
  if (torch === undefined) throw unobtainable(wanted, pip.problems);
  const wheels = [torch];
  const needs = variant === "cpu" ? [] : await cudaRequirements(torch);
  if (needs.length > 0) {
    const more = await pipDownload([needs], join(folder, "cuda"), { needs: true, report, env });
    if (more.wheels.length === 0) throw unobtainable(wanted, more.problems);
    wheels.push(...more.wheels);
  }
  const archives: Archive[] = [];
  for (const wheel of wheels) archives.push(await describe(wheel, `pip: ${basename(wheel)}`, wanted));
  return archives;
}

/** A wheel or a zip; or a folder that holds PyTorch's wheel for CUDA and those of the libraries it names. */
async function fromDisk(from: string, wanted: Wanted): Promise<Archive[]> {
  const path = resolve(from);
  if (!existsSync(path)) {
    throw new MemformerError("IO", `--from ${from}: there is no such file.`, { details: { path } });
  }
  if (!statSync(path).isDirectory()) return [await describe(path, `file: ${path}`, wanted)];
  const names = (await readdir(path)).filter((name) => /\.(whl|zip)$/.test(name)).sort();
  const torch = names.filter((name) => /^(torch|libtorch)-/.test(name));
  const libraries = names.filter((name) => name.startsWith("nvidia_"));
  if (torch.length !== 1) {
    const found = torch.length === 0 ? "none" : torch.join(", ");
    const message = `--from ${from}: expected a file or a folder with one archive of PyTorch (torch-*.whl or libtorch-*.zip), found ${found}.`;
    throw new MemformerError("IO", message, { details: { path, found: torch } });
  }
  const archives: Archive[] = [];
  for (const name of [...torch, ...libraries])
    archives.push(await describe(join(path, name), `file: ${join(path, name)}`, wanted));
  return archives;
}

/** Hashes an archive that did not come by our URL, and says how it stands to what is known of it. */
async function describe(path: string, source: string, { hashes, report }: Wanted, file?: PinnedFile): Promise<Archive> {
  const sha256 = await hashFile(path),
    name = basename(path);
  const pin = hashes.pinOf(sha256) ?? file ?? hashes.pinNamed(name);
  if (pin?.sha256 === sha256) report?.(`SHA-256 ${sha256} is the pinned one.`);
  else if (pin !== undefined)
    report?.(`SHA-256 ${sha256}\n pinned ${pin.sha256}: another file, recorded as "${source}".`);
  else hashes.requireSame(name, sha256, report);
  return { path, source, sha256, pinned: pin?.sha256 === sha256 };
}

function unobtainable({ version = "", variant }: Wanted, attempts: readonly Attempt[]): MemformerError {
  return loadError(
    "LIBTORCH_NOT_FOUND",
    `LibTorch ${version} (${variant}) could not be fetched.`,
    attempts,
    [
      ["behind a proxy", "HTTPS_PROXY=http://… npx memformer setup"],
      ["or from a mirror", "npx memformer setup --mirror URL"],
      ["or from archives brought by other means", "npx memformer setup --from FILE"],
      ["or use a Python install", "MEMFORMER_LIBTORCH=python"],
    ],
    { details: { version, variant } },
  );
}
