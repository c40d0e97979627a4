/** Identifies a run's training text by content: `training.json` in its folder, and in its model's with the step. */
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { z } from "zod";
import { withIoErrors } from "../io-error.ts";
import {
  sourceHash,
  TokenFile,
  type Dataset,
  type HeldOutTexts,
  type Split,
  type Tokenizer,
  type TokenSource,
} from "../data/index.ts";
import { MemformerError } from "../errors.ts";

const TRAINING = "training.json";

const count = z.int().nonnegative();
const splitSchema = z.object({
  documents: count,
  tokens: count,
  bytes: count,
  /** SHA-256 of the documents' hashes; absent where a token file does not have them. */
  content: z.string().optional(),
  /** The hashes themselves, uint64 in base64; absent beyond a million documents. */
  hashes: z.string().optional(),
  /** Of what was held out by a draw: the document of which it is the end alone, if there is one. */
  drawn: z.object({ cut: z.object({ hash: z.string(), at: count }).optional() }).optional(),
});
const schema = z.object({
  format: z.literal("memformer-training"),
  formatVersion: z.literal(1),
  /** Steps of training, of a model. */
  step: count.optional(),
  tokenizer: z.object({ name: z.string(), vocabulary: count, bos: count }),
  /** Absent for a run begun by memformer 0.1, of which it is not known. */
  splits: z.record(z.string(), splitSchema).optional(),
});

/** The recorded facts about a run's text. */
export type RunIdentity = z.infer<typeof schema>;
type SplitIdentity = z.infer<typeof splitSchema>;

/** The identity of a data set as it is now. */
export function identityOf(data: Dataset): RunIdentity {
  const splits = Object.fromEntries(data.names.map((name) => [name, splitIdentity(data, name)]));
  return { format: "memformer-training", formatVersion: 1, tokenizer: factsOf(data.tokenizer), splits };
}

function factsOf({ name, vocabulary, bos }: Tokenizer): RunIdentity["tokenizer"] {
  return { name, vocabulary, bos };
}

function splitIdentity(data: Dataset, name: Split): SplitIdentity {
  const source = data.split(name);
  const { documents, tokens, bytes } = source;
  const content = sourceHash(source);
  const split = source instanceof TokenFile ? source.header.split : undefined;
  const facts = { documents, tokens, bytes, ...(content !== undefined && { content }) };
  if (content === undefined) return facts;
  const hashes = documents <= MOST_HASHES || name === "valid" ? { hashes: encoded(source) } : {};
  return { ...facts, ...hashes, ...(name === "valid" && split && { drawn: { ...(split.cut && { cut: split.cut }) } }) };
}

/** About 10 MB of text. */
const MOST_HASHES = 1e6;

function encoded(source: TokenSource): string {
  const hashes = BigUint64Array.from({ length: source.documents }, (_, i) => source.documentHash!(i)!);
  return Buffer.from(hashes.buffer).toString("base64");
}

/** The hashes of a split's documents, undefined where they are not kept. */
export function hashesOf(split: SplitIdentity | undefined): ReadonlySet<bigint> | undefined {
  if (split?.hashes === undefined) return undefined;
  const bytes = Uint8Array.from(Buffer.from(split.hashes, "base64"));
  return new Set(new BigUint64Array(bytes.buffer, 0, bytes.length >> 3));
}

/** Writes `training.json`. Throws IO. */
export async function writeIdentity(folder: string, identity: RunIdentity, step?: number): Promise<void> {
  const path = join(folder, TRAINING);
  const text = JSON.stringify({ ...identity, ...(step !== undefined && { step }) }, null, 2);
  await withIoErrors("write", path, () => writeFile(path, `${text}\n`));
}

/** That of a folder, undefined if it has none. Throws CHECKPOINT_FORMAT for a damaged one, IO. */
export async function readIdentity(folder: string): Promise<RunIdentity | undefined> {
  const path = join(folder, TRAINING);
  if (!existsSync(path)) return undefined;
  const text = await withIoErrors("read", path, () => readFile(path, "utf8"));
  try {
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    throw new MemformerError(
      "CHECKPOINT_FORMAT",
      `${path} does not say what a run was trained on: it is damaged or of another version`,
      {
        details: { path },
        cause,
      },
    );
  }
}

/** That of the run that a model or a checkpoint came from, if it lies with it or in the folders above. */
export async function identityOfRun(folder: string): Promise<RunIdentity | undefined> {
  for (const place of [folder, dirname(folder), dirname(dirname(folder))]) {
    const found = await readIdentity(place);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** The documents that a run held out, to be held out again from text that has grown. */
export function heldOutOf(identity: RunIdentity): HeldOutTexts | undefined {
  const split = identity.splits?.["valid"],
    hashes = hashesOf(split);
  if (split?.drawn === undefined || hashes === undefined) return undefined;
  const { cut } = split.drawn;
  return { hashes, ...(cut && { cut: { hash: BigInt(`0x${cut.hash}`), at: cut.at } }) };
}

/** Whether two splits hold the same documents; undefined where one of them does not tell. */
export function isSame(a: SplitIdentity | undefined, b: SplitIdentity | undefined): boolean | undefined {
  if (a === undefined || b === undefined) return a === b;
  if (a.documents !== b.documents || a.tokens !== b.tokens || a.bytes !== b.bytes) return false;
  return a.content === undefined || b.content === undefined ? undefined : a.content === b.content;
}

/** Throws CHECKPOINT_MISMATCH, saying what is another and what is still the same, unless a run can go on with `now`. */
export function refuseOtherText(out: string, before: RunIdentity, now: RunIdentity): void {
  const refuse = (words: string, details: object): never => {
    throw new MemformerError("CHECKPOINT_MISMATCH", `the run in ${out} ${words}`, { details: { out, ...details } });
  };
  const [had, has] = [before.tokenizer, now.tokenizer];
  if (had.name !== has.name || had.vocabulary !== has.vocabulary || had.bos !== has.bos) {
    refuse(
      `was trained with the tokenizer ${wordsOf(had)}; it is now given ${wordsOf(has)}: restore the file, or start a new run`,
      {
        expected: had,
        found: has,
      },
    );
  }
  if (before.splits === undefined) return;
  const names = [...new Set([...Object.keys(before.splits), ...Object.keys(now.splits ?? {})])] as Split[];
  const changed = names.filter((name) => name !== "test" && isSame(before.splits![name], now.splits?.[name]) === false);
  if (changed.length === 0) return;
  const rest = names.filter(
    (name) => !changed.includes(name) && isSame(before.splits![name], now.splits?.[name]) === true,
  );
  const sentences = changed.map(
    (name) => `${name} was ${sizeOf(before.splits![name])} and is ${sizeOf(now.splits?.[name])}`,
  );
  refuse(
    `was trained on a different text: ${sentences.join("; ")}${rest.length > 0 ? `; ${rest.join(" and ")} is the same` : ""}` +
      `${keptWords(before, now)}: restore the text, or start a new run`,
    { changed },
  );
}

/** `; of 5 documents held out then, 5 are held out still` */
function keptWords(before: RunIdentity, now: RunIdentity): string {
  const [then, still] = [heldOutOf(before), heldOutOf(now)];
  if (then === undefined || still === undefined) return "";
  const kept = [...then.hashes].filter((hash) => still.hashes.has(hash)).length;
  return `; of ${then.hashes.size} document${then.hashes.size === 1 ? "" : "s"} held out then, ${kept} ${kept === 1 ? "is" : "are"} held out still`;
}

function wordsOf({ name, vocabulary, bos }: RunIdentity["tokenizer"]): string {
  return `"${name}" (vocabulary ${vocabulary}, BOS ${bos})`;
}

export function sizeOf(split: SplitIdentity | undefined): string {
  if (split === undefined) return "not there";
  const content = split.content === undefined ? "" : ` (${split.content.slice(0, 12)})`;
  return `${split.documents} document${split.documents === 1 ? "" : "s"} of ${split.tokens} tokens${content}`;
}
