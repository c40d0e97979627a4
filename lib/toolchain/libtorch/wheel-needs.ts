/** Which CUDA libraries a wheel of PyTorch names in its metadata. */
import { buffer } from "node:stream/consumers";
import type { Entry } from "yauzl";
import { openZip } from "../../files/zip.ts";

/**
 * The wheel's requirements on CUDA's libraries, as pip understands them: `nvidia-nccl-cu13==2.30.7`,
 * `cuda-toolkit[cublas]==13.0.3`.
 */
export async function cudaRequirements(wheel: string): Promise<string[]> {
  const metadata = await readMetadata(wheel);
  return [...metadata.matchAll(/^Requires-Dist: *((?:cuda-toolkit|nvidia-)[^;\n]*)/gm)].map(([, name]) =>
    name!.replaceAll(" ", ""),
  );
}

async function readMetadata(wheel: string): Promise<string> {
  const zip = await openZip(wheel);
  try {
    return await new Promise((resolve, reject) => {
      zip.on("error", reject);
      zip.on("end", () => {
        resolve("");
      });
      zip.on("entry", (entry: Entry) => {
        if (!/^torch-[^/]+\.dist-info\/METADATA$/.test(entry.fileName)) {
          zip.readEntry();
          return;
        }
        zip.openReadStream(entry, (error, stream) => {
          if (error !== null) reject(error);
          else
            buffer(stream).then((bytes) => {
              resolve(bytes.toString("utf8"));
            }, reject);
        });
      });
      zip.readEntry();
    });
  } finally {
    zip.close();
  }
}
