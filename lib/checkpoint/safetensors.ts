/** Tensor files in the safetensors format, readable by Python's safetensors and written to disk tensor by tensor. */
import { constants } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { MemformerError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { ITEM_BYTES, tensorBytes, type DType, type HostTensor } from "./host-tensor.ts";
import { withIoErrors } from "../io-error.ts";
import { decodeHeader, encodeHeader, MAX_HEADER_BYTES, type Header, type TensorPlace } from "./safetensors-header.ts";

/** One tensor to be written: what the header says of it, and its bytes, asked for when their turn comes. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  read(): Promise<Uint8Array> | Uint8Array;
}

/** Linux transfers at most this much in one call. */
const MAX_TRANSFER = 1 << 30;

/** An entry whose bytes are already here. */
export function tensorEntry(name: string, tensor: HostTensor): TensorEntry {
  return { name, dtype: tensor.dtype, shape: tensor.shape, read: () => tensor.data };
}

/**
 * Writes `path` whole or not at all, holding one tensor's bytes at a time. Wider dtypes come first, so that every
 * tensor is aligned to its element. Throws CHECKPOINT_FORMAT for a name twice, a shape that is none, or bytes that are
 * not as many as announced; IO for the disk; what `read` threw.
 */
export async function writeSafetensors(
  path: string,
  entries: Iterable<TensorEntry>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const ordered = [...entries].sort((a, b) => ITEM_BYTES[b.dtype] - ITEM_BYTES[a.dtype]);
  const places = layOut(path, ordered);
  const header = encodeHeader({ tensors: places, metadata });
  await writeFileAtomic(path, async (handle) => {
    await writeFully(handle, header);
    for (const entry of ordered) {
      const data = await entry.read();
      const { begin, end } = places.get(entry.name)!;
      if (data.byteLength !== end - begin) {
        throw new MemformerError(
          "CHECKPOINT_FORMAT",
          `${path}: tensor "${entry.name}" was to have ${end - begin} bytes, but ${data.byteLength} came`,
          { details: { path, tensor: entry.name, expected: end - begin, got: data.byteLength } },
        );
      }
      await writeFully(handle, data);
    }
  });
}

/** Opens a file and checks its whole header. Throws CHECKPOINT_FORMAT with one sentence on what is wrong, or IO. */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  return await withIoErrors("read", path, async () => {
    // Non-blocking, lest a named pipe in the place of a file wait forever.
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const { header, dataStart } = await readHeader(handle, path);
      return new SafetensorsFile(path, handle, header, dataStart);
    } catch (error) {
      await handle.close();
      throw error;
    }
  });
}

/** An open tensor file: its header is in memory, tensors are read when asked for. */
export class SafetensorsFile {
  readonly path: string;
  readonly #handle: FileHandle;
  readonly #header: Header;
  readonly #dataStart: number;
  #closed = false;

  /** Use {@link openSafetensors}. */
  constructor(path: string, handle: FileHandle, header: Header, dataStart: number) {
    this.path = path;
    this.#handle = handle;
    this.#header = header;
    this.#dataStart = dataStart;
  }

  /** All tensor names, in the order of their data. */
  get names(): readonly string[] {
    return [...this.#header.tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end).map(([name]) => name);
  }

  /** The free texts stored with the tensors. */
  get metadata(): Readonly<Record<string, string>> {
    return this.#header.metadata;
  }

  /** Dtype, shape and place of a tensor. Throws CHECKPOINT_MISMATCH if there is none of that name. */
  entry(name: string): TensorPlace {
    const place = this.#header.tensors.get(name);
    if (place !== undefined) return place;
    throw new MemformerError("CHECKPOINT_MISMATCH", `${this.path} holds no tensor "${name}"`, {
      details: { path: this.path, tensor: name },
    });
  }

  /** Reads one tensor. Throws as {@link entry} does, DISPOSED after close, IO, CHECKPOINT_FORMAT if the file shrank. */
  async read(name: string): Promise<HostTensor> {
    if (this.#closed) {
      throw new MemformerError("DISPOSED", `${this.path} has been closed`, { details: { path: this.path } });
    }
    const { dtype, shape, begin, end } = this.entry(name);
    const data = await withIoErrors("read", this.path, () =>
      readFully(this.#handle, this.#dataStart + begin, end - begin, this.path),
    );
    if (dtype === "bool" && data.some((byte) => byte > 1)) {
      throw new MemformerError(
        "CHECKPOINT_FORMAT",
        `${this.path}: tensor "${name}" is bool but holds bytes other than 0 and 1`,
        {
          details: { path: this.path, tensor: name },
        },
      );
    }
    return { dtype, shape, data };
  }

  /** Reads everything. */
  async readAll(): Promise<Map<string, HostTensor>> {
    const tensors = new Map<string, HostTensor>();
    for (const name of this.names) tensors.set(name, await this.read(name));
    return tensors;
  }

  /** Closes the file; once more is harmless. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#handle.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function layOut(path: string, entries: readonly TensorEntry[]): Map<string, TensorPlace> {
  const places = new Map<string, TensorPlace>();
  const fail = (name: string, words: string): never => {
    throw new MemformerError("CHECKPOINT_FORMAT", `${path}: tensor "${name}": ${words}`, {
      details: { path, tensor: name },
    });
  };
  let begin = 0;
  for (const { name, dtype, shape } of entries) {
    if (name === "__metadata__") fail(name, "the format keeps this name for itself");
    if (places.has(name)) fail(name, "two tensors bear this name");
    if (!Object.hasOwn(ITEM_BYTES, dtype)) {
      fail(name, `unknown dtype "${dtype}"; known are ${Object.keys(ITEM_BYTES).join(", ")}`);
    }
    const bytes = tensorBytes(dtype, shape);
    if (typeof bytes === "string") return fail(name, bytes);
    places.set(name, { dtype, shape: [...shape], begin, end: begin + bytes });
    begin += bytes;
  }
  return places;
}

async function readHeader(handle: FileHandle, path: string): Promise<{ header: Header; dataStart: number }> {
  const fail = (words: string): never => {
    throw new MemformerError("CHECKPOINT_FORMAT", `${path}: ${words}`, { details: { path } });
  };
  const found = await handle.stat();
  if (!found.isFile()) fail("not a regular file");
  if (found.size < 8) fail(`holds ${found.size} bytes; a safetensors file starts with 8 bytes of header length`);
  const prefix = await readFully(handle, 0, 8, path);
  const declared = Buffer.from(prefix.buffer).readBigUInt64LE();
  if (declared > MAX_HEADER_BYTES) {
    fail(`declares a header of ${declared} bytes; the limit is ${MAX_HEADER_BYTES} (not a safetensors file?)`);
  }
  const length = Number(declared);
  if (length > found.size - 8) {
    fail(`declares a header of ${length} bytes, but only ${found.size - 8} follow (truncated?)`);
  }
  const json = await readFully(handle, 8, length, path);
  const dataStart = 8 + length;
  return { header: decodeHeader(json, found.size - dataStart, path), dataStart };
}

async function readFully(handle: FileHandle, position: number, length: number, path: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const { bytesRead } = await handle.read(bytes, done, Math.min(length - done, MAX_TRANSFER), position + done);
    if (bytesRead === 0) {
      throw new MemformerError(
        "CHECKPOINT_FORMAT",
        `${path} ended while it was read: it has been truncated since it was opened`,
        {
          details: { path },
        },
      );
    }
    done += bytesRead;
  }
  return bytes;
}

async function writeFully(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.byteLength - done, MAX_TRANSFER));
    done += bytesWritten;
  }
}
