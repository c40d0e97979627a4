/** The version of NCCL that a LibTorch carries, read from the library's own banner: it need not load. */
import { createReadStream, readdirSync } from "node:fs";
import { dirname, join } from "node:path";

const BANNER = /NCCL version (\d+\.\d+\.\d+[^\0\s]*)[\0\s]/;
const NAMES = ["libnccl.so.2", "libnccl.so", "libtorch_cuda.so"]; // the last where NCCL is linked in

/** `2.27.5+cuda12.9`, and the file it is from; undefined where there is none. `root`: LibTorch's folder. */
export async function ncclVersion(
  root: string,
): Promise<{ readonly version: string; readonly file: string } | undefined> {
  // Beside LibTorch's own libraries, or in pip's package of its own, beside torch.
  const folders = [join(root, "lib"), join(dirname(root), "nvidia", "nccl", "lib")];
  for (const name of NAMES)
    for (const folder of folders) {
      if (!filesOf(folder).includes(name)) continue;
      const file = join(folder, name),
        version = await versionIn(file);
      if (version !== undefined) return { version, file };
    }
  return undefined;
}

function filesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

async function versionIn(file: string): Promise<string | undefined> {
  let tail = "";
  for await (const piece of createReadStream(file, { encoding: "latin1", highWaterMark: 1 << 22 })) {
    const found = BANNER.exec(tail + String(piece))?.[1];
    if (found !== undefined) return found;
    tail = String(piece).slice(-64);
  }
  return undefined;
}
