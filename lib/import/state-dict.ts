/** The tensors of a checkpoint by name, whatever file they lie in: PyTorch's zip or safetensors. */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { withIoErrors } from "../io-error.ts";
import { openPytorch } from "../checkpoint/pytorch/pytorch-file.ts";
import { openSafetensors } from "../checkpoint/safetensors.ts";
import { StridedTensor } from "../checkpoint/pytorch/strided.ts";
import type { DType, HostTensor } from "../checkpoint/host-tensor.ts";
import { MemformerError } from "../errors.ts";

/** A tensor that is read when its turn comes. */
export interface StoredTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  read(): Promise<HostTensor>;
}

export interface StateDict extends AsyncDisposable {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

/** Where training scripts put the state dict when they save more beside it. */
const KEYS = ["model", "state_dict", "model_state_dict"];

/**
 * Opens a state dict: a file that is one, or a PyTorch file that holds one under `model`, `state_dict` or
 * `model_state_dict`. The caller closes it. Throws CHECKPOINT_FORMAT for what is none, IO.
 */
export async function openStateDict(path: string): Promise<StateDict> {
  const start = await firstBytes(path);
  if (start.subarray(0, 4).equals(Buffer.from("PK\x03\x04", "latin1"))) return await fromPytorch(path);
  if (start[8] === "{".charCodeAt(0)) return await fromSafetensors(path);
  const pickled = start[0] === 0x80;
  throw new MemformerError(
    "CHECKPOINT_FORMAT",
    pickled
      ? `${path} is a pickle without a zip around it, PyTorch's format before version 1.6, which memformer does not read; ` +
          "load it in PyTorch and save it again: torch.save(torch.load(old, weights_only=True), new)"
      : `${path} is not a checkpoint: neither a PyTorch zip nor safetensors`,
    { details: { path } },
  );
}

async function fromSafetensors(path: string): Promise<StateDict> {
  const file = await openSafetensors(path);
  const tensors = new Map(
    file.names.map((name) => {
      const { dtype, shape } = file.entry(name);
      return [name, { dtype, shape, read: async () => file.read(name) }];
    }),
  );
  return { tensors, [Symbol.asyncDispose]: async () => file.close() };
}

async function fromPytorch(path: string): Promise<StateDict> {
  const file = await openPytorch(path);
  const nested = file.root instanceof Map ? KEYS.map((key) => (file.root as Map<unknown, unknown>).get(key)) : [];
  for (const candidate of [...nested, file.root]) {
    if (!(candidate instanceof Map)) continue;
    const tensors = new Map<string, StoredTensor>();
    for (const [name, value] of candidate as Map<unknown, unknown>) {
      if (!(value instanceof StridedTensor) || typeof name !== "string") continue;
      tensors.set(name, { dtype: value.storage.dtype, shape: value.shape, read: async () => file.read(value) });
    }
    if (tensors.size > 0)
      return {
        tensors,
        [Symbol.asyncDispose]: async () => {
          file.close();
        },
      };
  }
  file.close();
  throw new MemformerError(
    "CHECKPOINT_FORMAT",
    `${path} holds no state dict: there are no tensors by name, neither at its top nor under ${KEYS.join(", ")}`,
    { details: { path } },
  );
}

async function firstBytes(path: string): Promise<Buffer> {
  return await withIoErrors("read", path, async () => {
    // Non-blocking, lest a named pipe in the place of a file wait forever.
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const bytes = Buffer.alloc(16);
      return bytes.subarray(0, (await handle.read(bytes, 0, bytes.length, 0)).bytesRead);
    } finally {
      await handle.close();
    }
  });
}
