// Any Hugging Face tokenizer.json, read without Python.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import * as huggingface from "@huggingface/tokenizers";
import { MemformerError } from "../errors.ts";
import { WindowDecoder } from "./byte-decoder.ts";
import { jsonEncoder, type JsonTokenizer } from "./json-encoder.ts";
import { outOfVocabulary, type Tokenizer } from "./tokenizer.ts";

const { Tokenizer: OpenedJson } = huggingface as unknown as {
  Tokenizer: new (tokenizer: object, config: object) => JsonTokenizer;
};

/** Names under which published tokenizers keep the token of a text's start, the most explicit first. */
const startNames = [
  "<|begin_of_text|>", "<|startoftext|>", "<|bos|>", "<bos>", "[BOS]", "<s>", "[CLS]", "<|endoftext|>",
];

/**
 * Opens a `tokenizer.json`. BOS is the `bos_token` of a `tokenizer_config.json` beside it, else a special token with
 * one of the usual names, else one id added after the last.
 * @throws MemformerError `IO` if the file cannot be read, `DATA` if it is no tokenizer.
 */
export async function openTokenizerJson(path: string): Promise<Tokenizer> {
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new MemformerError("IO", `The tokenizer ${path} cannot be read: ${(cause as Error).message}`, { cause });
  });
  const config = await readConfig(join(dirname(path), "tokenizer_config.json"));
  const { inner, vocab } = parse(path, text, config);
  let last = -1;
  for (const id of vocab.values()) last = Math.max(last, id);
  const given = typeof config["bos_token"] === "string" ? [config["bos_token"]] : [];
  const start = [...given, ...startNames].map((name) => vocab.get(name)).find((id) => id !== undefined);
  const bos = start ?? last + 1;
  const vocabulary = Math.max(last, bos) + 1;
  const name = `json:${createHash("sha256").update(text).digest("hex").slice(0, 12)}`;

  const decode = (tokens: Iterable<number>): string => {
    const ids: number[] = [];
    for (const token of tokens) {
      if (!Number.isInteger(token) || token < 0 || token >= vocabulary) throw outOfVocabulary(token, name, vocabulary);
      if (token !== bos) ids.push(token);
    }
    if (ids.length === 0) return "";
    return inner.decode(ids, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  };
  return {
    name, spec: path, vocabulary, bos, decode,
    ...jsonEncoder(inner),
    decoder: () => new WindowDecoder(decode),
  };
}

function parse(path: string, text: string, config: object): { inner: JsonTokenizer; vocab: Map<string, number> } {
  try {
    const inner = new OpenedJson(JSON.parse(text) as object, config);
    const vocab = inner.get_vocab(true);
    if (vocab.size === 0) throw new Error("it has no tokens");
    return { inner, vocab };
  } catch (cause) {
    throw new MemformerError("DATA", `${path} is not a tokenizer.json: ${(cause as Error).message}`, { cause });
  }
}

async function readConfig(path: string): Promise<Record<string, unknown>> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
  } catch {
    return {}; // an optional neighbour: most tokenizer.json files come alone
  }
}
