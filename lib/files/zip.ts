/**
 * Opens a zip that may be damaged, or made to do harm. yauzl reads where the zip says; a place that no file can have is
 * thrown by Node from inside a callback, where nobody catches it, so every place is held against the file's size first.
 */
import { open } from "node:fs/promises";
import { Readable } from "node:stream";
import { fromRandomAccessReader, RandomAccessReader, type ZipFile } from "yauzl";

/**
 * Entries are asked for one by one (`readEntry`); the caller closes it. Rejects with yauzl's error, or the operating
 * system's.
 */
export async function openZip(path: string): Promise<ZipFile> {
  const file = await open(path, "r"),
    { size } = await file.stat(),
    reader = new BoundedReader(file, size);
  return await new Promise((resolve, reject) => {
    fromRandomAccessReader(reader, size, { lazyEntries: true, autoClose: false }, (error, zip) => {
      if (error === null) resolve(zip);
      else
        file.close().then(() => {
          reject(error);
        }, reject);
    });
  });
}

type Handle = Awaited<ReturnType<typeof open>>;
type Done = (error: Error | null, bytesRead?: number) => void;

const pieceBytes = 1 << 18;

function outside(start: number, end: number): Error {
  return new Error(`it names bytes ${start} to ${end}, which lie outside it`);
}

class BoundedReader extends RandomAccessReader {
  readonly #file: Handle;
  readonly #size: number;

  constructor(file: Handle, size: number) {
    super();
    this.#file = file;
    this.#size = size;
  }

  #holds(start: number, end: number): boolean {
    return Number.isSafeInteger(start) && start >= 0 && start <= end && end <= this.#size;
  }

  /** Node's own stream of a file closes it when it is destroyed, whatever it is told. */
  override _readStreamForRange(start: number, end: number): Readable {
    return Readable.from(this.#pieces(start, end), { objectMode: false });
  }

  async *#pieces(start: number, end: number): AsyncGenerator<Buffer> {
    if (!this.#holds(start, end)) throw outside(start, end);
    for (let at = start; at < end;) {
      const { bytesRead, buffer } = await this.#file.read(Buffer.allocUnsafe(Math.min(pieceBytes, end - at)), {
        position: at,
      });
      if (bytesRead === 0) throw outside(at, end);
      at += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  }

  override read(buffer: Buffer, offset: number, length: number, position: number, done: Done): void {
    if (!this.#holds(position, position + length)) setImmediate(done, outside(position, position + length));
    else
      this.#file.read(buffer, offset, length, position).then(({ bytesRead }) => {
        done(null, bytesRead);
      }, done);
  }

  override close(done: Done): void {
    this.#file.close().then(() => {
      done(null);
    }, done);
  }
}
