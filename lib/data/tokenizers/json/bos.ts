// Which token stands at a text's start.
import { readFile } from "node:fs/promises";
import { MemformerError } from "../../../errors.ts";
import type { AddedToken } from "./format.ts";

/** Names under which published tokenizers keep it, the most explicit first. */
const usualNames = [
  "<|begin_of_text|>",
  "<|startoftext|>",
  "<|bos|>",
  "<bos>",
  "[BOS]",
  "<s>",
  "[CLS]",
  "<|endoftext|>",
];

/**
 * The `bos_token` that a tokenizer_config.json names: a string or an added token; undefined if it names none or there
 * is no such file.
 * @throws MemformerError `IO` if the file cannot be read, `DATA` if it is not a tokenizer_config.json.
 */
export async function configuredBos(path: string): Promise<string | undefined> {
  const text = await readFile(path, "utf8").catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return undefined;
    throw new MemformerError("IO", `${path} cannot be read: ${cause.message}`, { cause, details: { path } });
  });
  if (text === undefined) return undefined;
  const refuse = (what: string, cause?: unknown): never => {
    throw new MemformerError(
      "DATA",
      `${path} ${what}. It lies beside the tokenizer.json and names its BOS: mend or remove it.`,
      { cause, details: { path } },
    );
  };
  let config: unknown;
  try {
    config = parseJson(text);
  } catch (cause) {
    return refuse(`is not JSON: ${(cause as Error).message}`, cause);
  }
  if (typeof config !== "object" || config === null || Array.isArray(config)) return refuse("is not an object");
  const named = (config as Record<string, unknown>)["bos_token"] ?? undefined;
  if (named === undefined || typeof named === "string") return named;
  const content = (named as Record<string, unknown>)["content"];
  return typeof content === "string"
    ? content
    : refuse(`has the bos_token ${JSON.stringify(named)}, which is not a token`);
}

/**
 * The id of BOS: what is configured, else a special token with a usual name, else one id after the last.
 * @throws MemformerError `DATA` if the configured token does not exist.
 */
export function bosId(
  configured: { readonly token: string | undefined; readonly path: string },
  vocab: ReadonlyMap<string, number>,
  added: readonly AddedToken[],
  last: number,
): number {
  const { token, path } = configured;
  if (token !== undefined) {
    const id = added.find(({ content }) => content === token)?.id ?? vocab.get(token);
    if (id !== undefined) return id;
    throw new MemformerError(
      "DATA",
      `${path} names the bos_token ${JSON.stringify(token)}, which the tokenizer.json beside it does not have.`,
      { details: { path, token } },
    );
  }
  for (const name of usualNames) {
    const found = added.find(({ content, special }) => special && content === name);
    if (found !== undefined) return found.id;
  }
  return last + 1;
}

/** JSON, with or without a byte order mark. */
export function parseJson(text: string): unknown {
  return JSON.parse(text.replace(/^\ufeff/, ""));
}
