// Notes on how a data set was read and divided.
import { relative } from "node:path";
import type { Split } from "./dataset.ts";
import { inWords, textFiles, type TextFiles } from "./text-files.ts";
import type { TokenFile } from "./token-file.ts";
import type { TokenSource } from "./token-source.ts";

/** That a folder's other texts are not read, where some of its files are splits. */
export async function unread(folder: string, splits: Partial<Record<Split, string>>): Promise<string[]> {
  const taken = new Set(Object.values(splits));
  const { files } = await textFiles(folder).catch(() => ({ files: [] })); // there may be token files alone
  const left = files.filter((file) => !taken.has(file)).map((file) => relative(folder, file));
  if (left.length === 0) return [];
  const names = Object.values(splits)
    .map((file) => relative(folder, file))
    .join(", ");
  return [
    `${names} ${taken.size === 1 ? "is" : "are"} taken for splits by name, so ${left.length} other text ` +
      `file${left.length === 1 ? " is" : "s are"} not read (${left.slice(0, 3).join(", ")}${left.length > 3 ? ", …" : ""})`,
  ];
}

/** `30 files read, 2 hidden or backup names passed over` */
export function readNote(read: TextFiles): string {
  const passed = inWords(read);
  return `${read.files.length} file${read.files.length === 1 ? "" : "s"} read${passed && `, ${passed}`}`;
}

/** Documents and tokens of both sides of a division. */
export function heldOutNote(train: TokenFile, valid: TokenFile): string {
  const count = ({ documents, tokens }: TokenSource): string =>
    `${documents} document${documents === 1 ? "" : "s"} of ${tokens} tokens`;
  const share = (100 * valid.tokens) / (train.tokens + valid.tokens);
  return (
    `${count(valid)} held out (${share.toPrecision(2)} %${valid.header.split?.cut ? ", the end of a document among them" : ""}), ` +
    `${count(train)} trained on`
  );
}

/** That held-out documents are trained on too: a draw keeps copies together, splits of one's own may not. */
export function copiesNote(sources: Partial<Record<Split, TokenSource>>): string[] {
  const { train, ...others } = sources;
  return (Object.entries(others) as [Split, TokenSource][]).flatMap(([name, source]) => {
    const [held, seen] = [new Set(hashesOf(source)), new Set<bigint>()];
    if (train) for (const hash of hashesOf(train)) if (held.has(hash)) seen.add(hash);
    return seen.size === 0 ? [] : [`${seen.size} of ${held.size} different documents of ${name} are in train, too`];
  });
}

function* hashesOf(source: TokenSource): Generator<bigint, void, void> {
  for (let i = 0; i < source.documents; i++) {
    const hash = source.documentHash?.(i);
    if (hash !== undefined) yield hash;
  }
}
