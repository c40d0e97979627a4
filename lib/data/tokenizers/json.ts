// A Hugging Face tokenizer.json, read without Python; its parts are in the files beside this one.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { MemformerError } from "../../errors.ts";
import type { TokenDecoder } from "./byte-decoder.ts";
import { readAddedTokens, tokenFinder } from "./json/added-tokens.ts";
import { bosId, configuredBos, parseJson } from "./json/bos.ts";
import { createDecoder } from "./json/decoders.ts";
import { component, isWellFormed, UnsupportedError, type AddedToken, type Component } from "./json/format.ts";
import { createModel, vocabulary as vocabularyOf } from "./json/models.ts";
import { NoTokenError } from "./json/piece-model.ts";
import { createNormalizer, type Normalizer } from "./json/normalizers.ts";
import { createPreTokenizer } from "./json/pretokenizers.ts";
import { mayCutAfterWords } from "./json/cuts.ts";
import { pieced, tiled } from "./encode-pieces.ts";
import { PieceCache } from "./piece-cache.ts";
import { cutAfterWord } from "./text-cuts.ts";
import { TokenBuffer } from "./token-buffer.ts";
import { joined, outOfVocabulary, type EncodeOptions, type Tokenizer } from "./tokenizer.ts";

/** The contents of a file, except for its BOS. */
interface Parsed {
  readonly file: Component;
  readonly vocab: ReadonlyMap<string, number>;
  readonly added: readonly AddedToken[];
}

/**
 * Opens a `tokenizer.json`. BOS is the `bos_token` of a `tokenizer_config.json` beside it, else a special token with
 * one of the usual names, else one id added after the last. Text that spells a special token is text.
 * @throws MemformerError `IO` if a file cannot be read; `DATA` if it is not a tokenizer, has a component that is not
 * supported, or names a BOS that it does not have.
 */
export async function openTokenizerJson(path: string): Promise<Tokenizer> {
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new MemformerError("IO", `The tokenizer ${path} cannot be read: ${(cause as Error).message}`, { cause });
  });
  const parsed = refusing(path, () => parse(text));
  const { vocab, added } = parsed;
  const configPath = join(dirname(path), "tokenizer_config.json");
  const tokens: (string | undefined)[] = []; // the text of each id
  for (const [token, id] of vocab) tokens[id] = token;
  const normalize = refusing(path, () => createNormalizer(parsed.file["normalizer"] as Component | null));
  const foundAs = ({ content, normalized }: AddedToken): string => (normalized ? normalize(content, false) : content);
  for (const token of added) tokens[token.id] = foundAs(token);
  const bos = bosId({ token: await configuredBos(configPath), path: configPath }, vocab, added, tokens.length - 1);
  const vocabulary = Math.max(tokens.length, bos + 1);
  const name = `json:${createHash("sha256").update(text).digest("hex").slice(0, 12)}`;

  const special = new Set(added.filter((token) => token.special).map(({ id }) => id)).add(bos);
  const silent = new Set([...special].filter((id) => id === bos || !isFallbackByte(tokens[id], parsed.file)));
  const parts = refusing(path, () =>
    encoder(parsed, { special, bos, normalize, foundAs }, (cause) => encodingError(path, cause)),
  );
  const chain = refusing(path, () => createDecoder(parsed.file["decoder"] as Component | null));
  const addedIds = new Set(added.filter(({ content }) => !isFallbackByte(content, parsed.file)).map(({ id }) => id));
  const isToken = (id: number): boolean => id === bos || tokens[id] !== undefined;

  const start = (): TokenDecoder => {
    let text = "";
    const write = (piece: string): void => void (text += piece);
    let sink = chain(write);
    const taken = (): string => {
      const result = text;
      text = "";
      return result;
    };
    return {
      push(ids) {
        for (const id of ids) {
          if (!Number.isInteger(id) || id < 0 || id >= vocabulary) throw outOfVocabulary(id, name, vocabulary);
          if (!silent.has(id) && tokens[id] !== undefined) sink.token(tokens[id], addedIds.has(id));
        }
        return taken();
      },
      end() {
        sink.end();
        sink = chain(write);
        return taken();
      },
    };
  };
  return {
    name,
    spec: path,
    vocabulary,
    bos,
    isToken,
    ...(mayCutAfterWords(
      parsed.file,
      added.filter(({ id }) => !special.has(id)),
    ) && { cut: cutAfterWord }),
    encode: (piece, options) => joined([...parts(piece, options)]),
    encodeParts: parts,
    decode(ids) {
      const decoder = start();
      return decoder.push(ids) + decoder.end();
    },
    decoder(before = []) {
      const decoder = start();
      decoder.push([...before].filter(isToken));
      return decoder;
    },
  };
}

interface EncoderFacts {
  /** Ids that text never becomes. */
  readonly special: ReadonlySet<number>;
  readonly bos: number;
  readonly normalize: Normalizer;
  /** The text that an added token is found as. */
  readonly foundAs: (token: AddedToken) => string;
}

/** Text to ids, some thousands at a time. */
function encoder(
  { file, vocab, added }: Parsed,
  { special, bos, normalize, foundAs }: EncoderFacts,
  fail: (cause: unknown) => unknown,
): (text: string, options?: EncodeOptions) => Iterable<Int32Array> {
  const model = createModel(component(file["model"], "its model"), { vocab, special });
  const pieces = createPreTokenizer(file["pre_tokenizer"] as Component | null);
  const findable = added.filter(({ id }) => !special.has(id));
  const exact = tokenFinder(
    findable.filter(({ normalized }) => !normalized),
    foundAs,
  );
  const normal = tokenFinder(
    findable.filter(({ normalized }) => normalized),
    foundAs,
  );
  const known = new PieceCache((piece) => {
    const tokens = model.tokens(pieces.finish(piece));
    if (tokens.includes(bos)) throw new NoTokenError(piece); // its unknown token is BOS
    return tokens;
  });
  return function* (text, options = {}) {
    let place: "start" | "continued" | "inside" = options.continues === true ? "continued" : "start";
    const buffer = new TokenBuffer(),
      { end } = pieces;
    try {
      for (const section of exact(isWellFormed(text) ? text : text.replace(/\p{Surrogate}/gu, "\ufffd"))) {
        if ("id" in section) yield Int32Array.of(section.id);
        else
          for (const part of normal(normalize(section.text, place === "continued"))) {
            if ("id" in part) yield Int32Array.of(part.id);
            else
              yield* end ? tiled(part.text, end, known, buffer) : pieced(pieces.split(part.text, place), known, buffer);
            place = "inside";
          }
        place = "inside";
      }
    } catch (cause) {
      throw fail(cause);
    }
  };
}

/** Whether a token is a byte that the model falls back to: text, also where a trainer has made it special. */
function isFallbackByte(token: string | undefined, { model }: Component): boolean {
  return (model as Component)["byte_fallback"] === true && /^<0x[0-9A-F]{2}>$/.test(token ?? "");
}

function parse(text: string): Parsed {
  const file = component(parseJson(text), "it");
  const vocab = vocabularyOf(component(file["model"], "its model"));
  const added = readAddedTokens(file["added_tokens"]);
  if (vocab.size + added.length === 0) throw new Error("it has no tokens");
  return { file, vocab, added };
}

function refusing<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    const why = (cause as Error).message;
    const message =
      cause instanceof UnsupportedError ? `${path} cannot be used: ${why}` : `${path} is not a tokenizer.json: ${why}`;
    throw new MemformerError("DATA", message, { cause, details: { path } });
  }
}

function encodingError(path: string, cause: unknown): unknown {
  if (cause instanceof NoTokenError) {
    return new MemformerError("DATA", `${path} cannot encode this text: ${cause.message}`, {
      cause,
      details: { path },
    });
  }
  return cause;
}
