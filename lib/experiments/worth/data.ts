/** The text of an experiment: token files that are there, or a data set by name, read as bytes. */
import { openDataset, openTokenFile, openTokenizer, type TokenSource } from "../../index.ts";

export interface Texts extends AsyncDisposable {
  readonly train: TokenSource;
  readonly valid: TokenSource;
}

/** `spec`: two token files, "TRAIN,VALID", or what {@link openDataset} takes. */
export async function openTexts(spec: string): Promise<Texts> {
  if (spec.includes(".tokens")) {
    const [train = "", valid = ""] = spec.split(",");
    const files = { train: await openTokenFile(train, { cacheBytes: 2 ** 26 }), valid: await openTokenFile(valid) };
    return {
      ...files,
      async [Symbol.asyncDispose]() {
        await Promise.all([files.train.close(), files.valid.close()]);
      },
    };
  }
  return await openDataset(spec, { tokenizer: await openTokenizer("bytes") });
}
