/** The text of an experiment: read as bytes, and named by its content, so that rows of another text are not its own. */
import { openDataset, openTokenizer, sourceHash, type Dataset } from "../data/index.ts";

/** What `data` names, `moby-dick` unless it is given; as {@link openDataset}, and throws as it does. */
export async function openText(data = "moby-dick"): Promise<Dataset> {
  return openDataset(data, { tokenizer: await openTokenizer("bytes") });
}

/** `moby-dick#1f2e3d4c`: the data set's name and what its training text hashes to. */
export async function textName(data: string | undefined): Promise<string> {
  const text = await openText(data);
  try {
    return `${text.spec.split(/[:/]/)[0]!}#${(sourceHash(text.train) ?? `${text.train.tokens} tokens`).slice(0, 8)}`;
  } finally {
    await text.close();
  }
}
