/** Opens the text that a run names, telling how far the tokenizing of new text is. */
import {
  openDataset,
  type Dataset,
  type DatasetOptions,
  type TokenizeProgress,
  type Tokenizer,
} from "../data/index.ts";
import { formatBytes, formatDuration } from "../log/format.ts";
import type { RunSettings } from "./config.ts";

type DataSettings = Pick<
  RunSettings["run"],
  "data" | "skipEmpty" | "documents" | "field" | "heldOut" | "tokenizeThreads"
>;

export async function openRunData(
  { data, skipEmpty, documents, field, heldOut, tokenizeThreads }: DataSettings,
  tokenizer: Tokenizer,
  { signal, division, keep }: Pick<DatasetOptions, "signal" | "division" | "keep"> = {},
): Promise<Dataset> {
  return openDataset(data, {
    tokenizer,
    skipEmpty,
    tokenizeThreads,
    onProgress: telling(process.stderr),
    ...(signal !== undefined && { signal }),
    division,
    keep,
    ...(documents !== undefined && { documents }),
    ...(field !== undefined && { field }),
    ...(heldOut !== undefined && { heldOut }),
  });
}

const patience = 2000; // milliseconds before the first word, and between words

function telling(stream: NodeJS.WritableStream): (done: TokenizeProgress) => void {
  let told = performance.now();
  return ({ documents, bytes, bytesPerSecond, share, secondsLeft }) => {
    if (performance.now() - told < patience) return;
    told = performance.now();
    const percent = `${Math.floor(100 * share)} %`;
    const rate = `${formatBytes(bytesPerSecond)}/s`;
    stream.write(
      `tokenizing ${percent}: ${documents} documents, ${formatBytes(bytes)}, ${rate}, ${formatDuration(secondsLeft)} left\n`,
    );
  };
}
