/** The text of an experiment, named by its content, so that rows of another text are not its own. */
import { openDataset, openTokenizer, sourceHash, type Dataset, type TokenSource } from "../data/index.ts";

/** What to read, and by which tokenizer: of a plan's options, or of a run's context. */
export interface TextSpec {
  readonly data: string | undefined;
  /** Default: bytes. */
  readonly tokenizer?: string | undefined;
}

/** What `data` names, `moby-dick` unless it is given; as {@link openDataset}, and throws as it does. */
export async function openText({ data = "moby-dick", tokenizer = "bytes" }: TextSpec): Promise<Dataset> {
  return openDataset(data, { tokenizer: await openTokenizer(tokenizer) });
}

/**
 * `moby-dick#1f2e3d4c`: the data set's name, what its training text hashes to, and the tokenizer unless it is bytes.
 */
export async function textName(spec: TextSpec): Promise<string> {
  return (await textFacts(spec)).text;
}

/** {@link textName}, and V of its tokenizer. */
export async function textFacts(spec: TextSpec): Promise<{ readonly text: string; readonly vocabulary: number }> {
  const data = await openText(spec);
  try {
    const { name: tokenizer, vocabulary } = data.tokenizer,
      name = sourceName(data.spec, data.train);
    return { text: tokenizer === "bytes" ? name : `${name} ${tokenizer}`, vocabulary };
  } finally {
    await data.close();
  }
}

/** `moby-dick#1f2e3d4c` of what `spec` names and its training text. */
export function sourceName(spec: string, train: TokenSource): string {
  const name = spec.split(/[:/]/).find((part) => part !== "") ?? "text";
  return `${name}#${(sourceHash(train) ?? `${train.tokens} tokens`).slice(0, 8)}`;
}
