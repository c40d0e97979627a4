/**
 * Takes out of a wheel (`torch/…`) or an official zip (`libtorch/…`) what compiling and running need: libraries,
 * headers and CMake files. Python's half and the test libraries stay inside. Wheels of CUDA libraries (`nvidia/…`) lie
 * beside `torch/` as pip would put them: that is where LibTorch's run path looks for them.
 */
import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { crc32 } from "node:zlib";
import type { Entry, ZipFile } from "yauzl";
import { MemformerError } from "../../errors.ts";
import { openZip } from "../../files/zip.ts";
import type { Report } from "./report.ts";

const leftOut = /^lib(torch_python|backend_with_compiler|aoti_custom_ops|test_|.*_test\.)/;

/**
 * Where an entry of the archive goes below the folder, or undefined if it is not needed. `beside`: with CUDA's wheels.
 */
export function destination(name: string, beside = false): string | undefined {
  const library = /^nvidia\/(?:[\w.-]+\/)+lib\/[\w.+-]+\.so(?:\.[\w.]+)?$/.exec(name)?.[0];
  if (library !== undefined) return library;
  const path = inLibtorch(name);
  return path !== undefined && beside ? `torch/${path}` : path;
}

function inLibtorch(name: string): string | undefined {
  const path = /^(?:torch|libtorch)\/(.+[^/])$/.exec(name)?.[1];
  if (path === undefined) return /^torch\.libs\/[^/]+\.so[^/]*$/.test(name) ? `lib/${name.slice(11)}` : undefined;
  if (path === "version.py" || path === "build-version" || path === "build-hash") return path;
  if (path.startsWith("include/") || path.startsWith("share/cmake/")) return path;
  const library = /^lib\/([^/]+\.so(?:\.[^/]*)?)$/.exec(path)?.[1];
  return library !== undefined && !leftOut.test(library) ? path : undefined;
}

/**
 * Unpacks `archives`, PyTorch's own first, into the new folder `target`.
 *
 * @throws MemformerError `LIBTORCH_HASH` for a damaged archive or one with hostile entries (paths that lead outside,
 * links); `LIBTORCH_MISMATCH` if no LibTorch is in it.
 */
export async function unpack(archives: readonly string[], target: string, report?: Report): Promise<void> {
  const beside = archives.length > 1,
    chosen: Chosen[] = [];
  for (const archive of archives)
    await opened(archive, async (zip) => void chosen.push(...(await chooseEntries(zip, archive, beside))));
  if (!chosen.some(({ path }) => /^(torch\/)?lib\/libtorch_cpu\.so$/.test(path))) throw holdsNone(archives[0]!);
  const total = chosen.reduce((sum, { entry }) => sum + entry.uncompressedSize, 0);
  let done = 0;
  const onBytes = (bytes: number): void => report?.({ what: "Unpacking", done: (done += bytes), total });
  for (const archive of archives) {
    await opened(archive, async (zip) => {
      for (const { entry, path } of chosen.filter((one) => one.archive === archive)) {
        const file = join(target, path);
        await mkdir(dirname(file), { recursive: true });
        await extract(zip, entry, file, archive, onBytes);
      }
    });
  }
}

/** An entry that is needed, and where it goes. */
interface Chosen {
  readonly archive: string;
  readonly entry: Entry;
  readonly path: string;
}

async function opened(archive: string, work: (zip: ZipFile) => Promise<void>): Promise<void> {
  let zip: ZipFile;
  try {
    zip = await openZip(archive);
  } catch (error) {
    throw damaged(archive, error);
  }
  try {
    await work(zip);
  } finally {
    zip.close();
  }
}

function holdsNone(archive: string): MemformerError {
  const message = `${archive} holds no LibTorch: neither torch/lib/libtorch_cpu.so nor libtorch/lib/libtorch_cpu.so.`;
  return new MemformerError("LIBTORCH_MISMATCH", message, { details: { archive } });
}

/** Reads the whole directory: one bad entry stops everything before a file is written. */
async function chooseEntries(zip: ZipFile, archive: string, beside: boolean): Promise<Chosen[]> {
  const chosen: Chosen[] = [];
  await new Promise<void>((resolve, reject) => {
    zip.on("error", (error) => reject(damaged(archive, error)));
    zip.on("end", resolve);
    zip.on("entry", (entry: Entry) => {
      const path = destination(entry.fileName, beside);
      if (path !== undefined && isLink(entry)) {
        reject(damaged(archive, new Error(`${entry.fileName} is a link`)));
        return;
      }
      if (path !== undefined) chosen.push({ archive, entry, path });
      zip.readEntry();
    });
    zip.readEntry();
  });
  return chosen;
}

/** The Unix file type sits in the upper half of the external attributes. */
function isLink({ externalFileAttributes }: Entry): boolean {
  return ((externalFileAttributes >>> 28) & 0xf) === 0xa;
}

async function extract(
  zip: ZipFile,
  entry: Entry,
  file: string,
  archive: string,
  onBytes: (bytes: number) => void,
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
  const message = `${archive} cannot be unpacked: ${(cause as Error).message.replace(/\.$/, "")}.`;
  return new MemformerError("LIBTORCH_HASH", message, { cause, details: { archive } });
}
