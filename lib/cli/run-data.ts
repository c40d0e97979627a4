/** Opens the text that a run names, telling how far the tokenizing of new text is. */
import { openDataset, type Dataset, type Tokenizer } from "../data/index.ts";
import { formatBytes } from "../log/format.ts";
import type { RunSettings } from "./run-config.ts";

type DataSettings = Pick<RunSettings["run"], "data" | "skipEmpty" | "documents" | "heldOut">;

export async function openRunData(
  { data, skipEmpty, documents, heldOut }: DataSettings,
  tokenizer: Tokenizer,
  signal?: AbortSignal,
): Promise<Dataset> {
  return openDataset(data, {
    tokenizer,
    skipEmpty,
    onProgress: telling(process.stderr),
    ...(signal !== undefined && { signal }),
    ...(documents !== undefined && { documents }),
    ...(heldOut !== undefined && { heldOut }),
  });
}

const patience = 2000; // milliseconds before the first word, and between words

function telling(stream: NodeJS.WritableStream): (done: { documents: number; bytes: number }) => void {
  let told = performance.now();
  return ({ documents, bytes }) => {
    if (performance.now() - told < patience) return;
    told = performance.now();
    stream.write(`tokenizing: ${documents} documents, ${formatBytes(bytes)}\n`);
  };
}
