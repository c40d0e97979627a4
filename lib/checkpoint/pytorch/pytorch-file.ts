/**
 * PyTorch's checkpoints (`torch.save`, the zip of version 1.6 and later): `data.pkl`, a pickle of dictionaries and
 * views, and `data/<key>`, the storages that they are views of. Opening one runs nothing of it: the pickle may name
 * what makes tensors and dictionaries, listed here, and any other name is refused.
 */
import { MemformerError } from "../../errors.ts";
import { ITEM_BYTES, type DType, type HostTensor } from "../host-tensor.ts";
import { unpickle, type Construct, type PickleHooks } from "./pickle.ts";
import { gathered, StridedTensor, stridedTensor, type Storage } from "./strided.ts";
import { openZipRecords, type ZipRecords } from "./zip-records.ts";

const STORAGES: Readonly<Record<string, DType>> = {
  DoubleStorage: "float64",
  FloatStorage: "float32",
  HalfStorage: "float16",
  BFloat16Storage: "bfloat16",
  LongStorage: "int64",
  IntStorage: "int32",
  ByteStorage: "uint8",
  BoolStorage: "bool",
};

/**
 * Opens a file and reads its pickle; the caller closes it. Throws CHECKPOINT_FORMAT with one sentence on what is wrong,
 * or IO.
 */
export async function openPytorch(path: string): Promise<PytorchFile> {
  const zip = await openZipRecords(path);
  try {
    const pickle = zip.names.find((name) => /^[^/]+\/data\.pkl$/.test(name));
    if (pickle === undefined) fail(path, "a zip without data.pkl, and so no checkpoint of PyTorch's");
    const folder = pickle.slice(0, -"data.pkl".length);
    const order = `${folder}byteorder`;
    if (zip.size(order) !== undefined && Buffer.from(await zip.read(order)).toString() !== "little") {
      fail(path, "its numbers are not little-endian; save it again on another machine");
    }
    const root = unpickle(await zip.read(pickle), path, hooksFor(path, zip, folder));
    return new PytorchFile(path, zip, folder, root);
  } catch (error) {
    zip.close();
    throw error;
  }
}

/** An open checkpoint: its pickle is in memory, storages are read when a tensor is asked for. */
export class PytorchFile implements AsyncDisposable {
  readonly path: string;
  /** What was saved: Maps, arrays, texts, numbers, and {@link StridedTensor}s. */
  readonly root: unknown;
  readonly #zip: ZipRecords;
  readonly #folder: string;
  /** The storage read last: tensors that share one mostly follow each other. */
  #last: { readonly key: string; readonly bytes: Uint8Array } | undefined;

  /** Use {@link openPytorch}. */
  constructor(path: string, zip: ZipRecords, folder: string, root: unknown) {
    this.path = path;
    this.root = root;
    this.#zip = zip;
    this.#folder = folder;
  }

  /** A tensor's numbers. Throws CHECKPOINT_FORMAT for a damaged storage, IO. */
  async read(tensor: StridedTensor): Promise<HostTensor> {
    const { key, dtype } = tensor.storage;
    if (this.#last?.key !== key) this.#last = { key, bytes: await this.#zip.read(`${this.#folder}data/${key}`) };
    return { dtype, shape: tensor.shape, data: gathered(tensor, this.#last.bytes) };
  }

  close(): void {
    this.#zip.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

function hooksFor(path: string, zip: ZipRecords, folder: string): PickleHooks {
  const list = (value: unknown, what: string): readonly unknown[] =>
    Array.isArray(value) ? (value as unknown[]) : fail(path, `${what} is damaged`);
  const rebuild: Construct = ([storage, offset, shape, stride]) => {
    if (!isStorage(storage)) fail(path, "a tensor has no storage");
    const made = stridedTensor(storage, offset, list(shape, "a shape"), list(stride, "a list of strides"));
    return typeof made === "string" ? fail(path, `a tensor of storage "${storage.key}": ${made}`) : made;
  };
  const known = new Map<string, unknown>([
    [
      "collections.OrderedDict",
      ((args) => (args.length === 0 ? new Map() : fail(path, "an OrderedDict is damaged"))) satisfies Construct,
    ],
    ["torch.Size", (([sizes]) => list(sizes, "a shape")) satisfies Construct],
    ["torch._utils._rebuild_tensor_v2", rebuild],
    [
      "torch._utils._rebuild_parameter",
      (([tensor]) =>
        tensor instanceof StridedTensor ? tensor : fail(path, "a parameter is damaged")) satisfies Construct,
    ],
    ...Object.entries(STORAGES).map(([name, dtype]): [string, unknown] => [`torch.${name}`, { dtype }]),
  ]);
  return {
    global(module, name) {
      const found = known.get(`${module}.${name}`);
      return (
        found ??
        fail(
          path,
          `it names ${JSON.stringify(`${module}.${name}`).slice(0, 200)}, which no tensor needs; nothing of it was run. ` +
            "Save the state dict alone: torch.save(model.state_dict(), file)",
          { global: `${module}.${name}` },
        )
      );
    },
    persistent(id) {
      const [kind, type, key, , length] = list(id, "a storage");
      const dtype = (type as { dtype?: DType } | null | undefined)?.dtype;
      if (kind !== "storage" || dtype === undefined || typeof key !== "string" || !Number.isSafeInteger(length))
        return fail(path, "a storage is damaged");
      const bytes = zip.size(`${folder}data/${key}`),
        wanted = (length as number) * ITEM_BYTES[dtype];
      if (bytes !== wanted) fail(path, `storage "${key}" should have ${wanted} bytes and has ${bytes ?? "none"}`);
      return { key, dtype, length: length as number } satisfies Storage;
    },
  };
}

function isStorage(value: unknown): value is Storage {
  return typeof value === "object" && value !== null && "key" in value && "length" in value && "dtype" in value;
}

function fail(path: string, words: string, details: Record<string, unknown> = {}): never {
  throw new MemformerError("CHECKPOINT_FORMAT", `${path}: ${words}`, { details: { path, ...details } });
}
