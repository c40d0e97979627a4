/** Tells how far the tokenizing of new text is; nothing when it takes but a moment. */
import { formatBytes } from "../log/format.ts";

const patience = 2000; // milliseconds before the first word, and between words

export function tokenizing(stream: NodeJS.WritableStream): (done: { readonly documents: number; readonly bytes: number }) => void {
  let told = performance.now();
  return ({ documents, bytes }) => {
    if (performance.now() - told < patience) return;
    told = performance.now();
    stream.write(`tokenizing: ${documents} documents, ${formatBytes(bytes)}\n`);
  };
}
