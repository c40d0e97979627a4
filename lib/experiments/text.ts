/** The text of an experiment, named by its content, so that rows of another text are not its own. */
import { openDataset, openTokenizer, sourceHash, type Dataset } from "../data/index.ts";

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
    const name = data.spec.split(/[:/]/).find((part) => part !== "") ?? "text",
      hash = (sourceHash(data.train) ?? `${data.train.tokens} tokens`).slice(0, 8),
      { name: tokenizer, vocabulary } = data.tokenizer;
    return { text: `${name}#${hash}${tokenizer === "bytes" ? "" : ` ${tokenizer}`}`, vocabulary };
  } finally {
    await data.close();
  }
}
