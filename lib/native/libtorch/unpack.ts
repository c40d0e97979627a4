/**
 * Takes out of a wheel (`torch/…`) or an official zip (`libtorch/…`) what compiling and running need: libraries,
 * headers and CMake files. Python's half and the test libraries stay inside.
 */
import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { crc32 } from "node:zlib";
import { open, type Entry, type Options, type ZipFile } from "yauzl";
import { MemformerError } from "../../errors.ts";
import type { Report } from "./report.ts";

const openZip = promisify<string, Options, ZipFile>(open);

const leftOut = /^lib(torch_python|backend_with_compiler|aoti_custom_ops|test_|.*_test\.)/;

/** Where an entry of the archive goes below the root, or undefined if it is not needed. */
export function destination(name: string): string | undefined {
  const path = /^(?:torch|libtorch)\/(.+[^/])$/.exec(name)?.[1];
  if (path === undefined) return /^torch\.libs\/[^/]+\.so[^/]*$/.test(name) ? `lib/${name.slice(11)}` : undefined;
  if (path === "version.py" || path === "build-version" || path === "build-hash") return path;
  if (path.startsWith("include/") || path.startsWith("share/cmake/")) return path;
  const library = /^lib\/([^/]+\.so(?:\.[^/]*)?)$/.exec(path)?.[1];
  return library !== undefined && !leftOut.test(library) ? path : undefined;
}

/**
 * Unpacks `archive` into the new folder `target`.
 *
 * @throws MemformerError `LIBTORCH_HASH` for a damaged archive or one with hostile entries (paths that lead outside,
 * links); `LIBTORCH_MISMATCH` if no LibTorch is in it.
 */
export async function unpack(archive: string, target: string, report?: Report): Promise<void> {
  let zip: ZipFile;
  try {
    zip = await openZip(archive, { lazyEntries: true, autoClose: false });
  } catch (error) {
    throw damaged(archive, error);
  }
  try {
    const chosen = await chooseEntries(zip, archive);
    const total = chosen.reduce((sum, [entry]) => sum + entry.uncompressedSize, 0);
    let done = 0;
    const onBytes = (bytes: number): void => report?.({ what: "Unpacking", done: (done += bytes), total });
    for (const [entry, path] of chosen) {
      const file = join(target, path);
      await mkdir(dirname(file), { recursive: true });
      await extract(zip, entry, file, archive, onBytes);
    }
  } finally {
    zip.close();
  }
}

/** Reads the whole directory first, so that one bad entry stops everything before a file is written. */
async function chooseEntries(zip: ZipFile, archive: string): Promise<[Entry, string][]> {
  const chosen: [Entry, string][] = [];
  await new Promise<void>((resolve, reject) => {
    zip.on("error", (error) => reject(damaged(archive, error)));
    zip.on("end", resolve);
    zip.on("entry", (entry: Entry) => {
      const path = destination(entry.fileName);
      if (path !== undefined && isLink(entry)) {
        reject(damaged(archive, new Error(`${entry.fileName} is a link`)));
        return;
      }
      if (path !== undefined) chosen.push([entry, path]);
      zip.readEntry();
    });
    zip.readEntry();
  });
  if (chosen.some(([, path]) => path === "lib/libtorch_cpu.so")) return chosen;
  const message = `${archive} holds no LibTorch: neither torch/lib/libtorch_cpu.so nor libtorch/lib/libtorch_cpu.so.`;
  throw new MemformerError("LIBTORCH_MISMATCH", message, { details: { archive } });
}

/** The Unix file type sits in the upper half of the external attributes. */
function isLink({ externalFileAttributes }: Entry): boolean {
  return ((externalFileAttributes >>> 28) & 0xf) === 0xa;
}

async function extract(
  zip: ZipFile, entry: Entry, file: string, archive: string, onBytes: (bytes: number) => void,
): Promise<void> {
  let sum = 0;
  const check = new Transform({
    transform(chunk: Buffer, _encoding, callback) {
      sum = crc32(chunk, sum);
      onBytes(chunk.length);
      callback(null, chunk);
    },
  });
  try {
    const source = await new Promise<NodeJS.ReadableStream>((resolve, reject) => {
      zip.openReadStream(entry, (error, stream) => (error === null ? resolve(stream) : reject(error)));
    });
    await pipeline(source, check, createWriteStream(file));
  } catch (error) {
    throw (error as NodeJS.ErrnoException).syscall === undefined ? damaged(archive, error) : error;
  }
  if (sum !== entry.crc32) throw damaged(archive, new Error(`${entry.fileName} fails its checksum`));
}

function damaged(archive: string, cause: unknown): MemformerError {
  const message = `${archive} cannot be unpacked: ${(cause as Error).message}.`;
  return new MemformerError("LIBTORCH_HASH", message, { cause, details: { archive } });
}
