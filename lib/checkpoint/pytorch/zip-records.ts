/**
 * A zip whose files are stored as they are, as PyTorch writes its checkpoints: each is read whole, and its checksum
 * checked.
 */
import { stat } from "node:fs/promises";
import { crc32 } from "node:zlib";
import type { Entry, ZipFile } from "yauzl";
import { MemformerError } from "../../errors.ts";
import { openZip } from "../../files/zip.ts";
import { errnoOf, withIoErrors } from "../../io-error.ts";

const STORED = 0;

/** Opens a zip and reads its directory; the caller closes it. Throws CHECKPOINT_FORMAT with what is wrong, or IO. */
export async function openZipRecords(path: string): Promise<ZipRecords> {
  return await withIoErrors("read", path, async () => {
    if (!(await stat(path)).isFile()) throw damaged(path, "not a regular file");
    const zip = await openZip(path).catch((error: unknown) => {
      throw asDamage(path, error);
    });
    try {
      return new ZipRecords(path, zip, await directory(path, zip));
    } catch (error) {
      zip.close();
      throw error;
    }
  });
}

export class ZipRecords implements AsyncDisposable {
  readonly path: string;
  readonly #zip: ZipFile;
  readonly #entries: ReadonlyMap<string, Entry>;

  /** Use {@link openZipRecords}. */
  constructor(path: string, zip: ZipFile, entries: ReadonlyMap<string, Entry>) {
    this.path = path;
    this.#zip = zip;
    this.#entries = entries;
  }

  get names(): readonly string[] {
    return [...this.#entries.keys()];
  }

  /** Bytes of a file in it; undefined if there is none of that name. */
  size(name: string): number | undefined {
    return this.#entries.get(name)?.uncompressedSize;
  }

  /** The whole of one file. Throws CHECKPOINT_FORMAT if there is none, or if its checksum is wrong; IO. */
  async read(name: string): Promise<Uint8Array> {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw damaged(this.path, `it holds no "${name}"`);
    return await withIoErrors("read", this.path, async () => {
      const bytes = Buffer.alloc(entry.uncompressedSize);
      let done = 0;
      try {
        for await (const piece of await this.#stream(entry)) done += (piece as Buffer).copy(bytes, done);
      } catch (error) {
        throw asDamage(this.path, error);
      }
      if (crc32(bytes) !== entry.crc32) throw damaged(this.path, `"${name}" fails its checksum`);
      return bytes;
    });
  }

  async #stream(entry: Entry): Promise<NodeJS.ReadableStream> {
    return await new Promise((resolve, reject) => {
      this.#zip.openReadStream(entry, (error, stream) => {
        if (error === null) resolve(stream);
        else reject(error);
      });
    });
  }

  close(): void {
    this.#zip.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

async function directory(path: string, zip: ZipFile): Promise<Map<string, Entry>> {
  const { size } = await stat(path),
    entries = new Map<string, Entry>();
  await new Promise<void>((resolve, reject) => {
    zip.on("error", (error) => {
      reject(asDamage(path, error));
    });
    zip.on("end", resolve);
    zip.on("entry", (entry: Entry) => {
      const { fileName, compressionMethod, uncompressedSize } = entry;
      if (entries.has(fileName)) reject(damaged(path, `it holds "${fileName}" twice`));
      else if (compressionMethod !== STORED)
        reject(damaged(path, `"${fileName}" is compressed, which PyTorch never does`));
      else if (uncompressedSize > size) reject(damaged(path, `"${fileName}" claims more bytes than the file has`));
      else {
        entries.set(fileName, entry);
        zip.readEntry();
      }
    });
    zip.readEntry();
  });
  return entries;
}

function damaged(path: string, words: string, cause?: unknown): MemformerError {
  return new MemformerError("CHECKPOINT_FORMAT", `${path}: ${words}`, { details: { path }, cause });
}

/** yauzl's errors carry no code; those of the operating system do, and pass. */
function asDamage(path: string, error: unknown): Error {
  return errnoOf(error) === undefined && !(error instanceof MemformerError)
    ? damaged(path, `its zip is damaged (truncated?): ${(error as Error).message}`, error)
    : (error as Error);
}
