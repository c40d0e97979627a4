// The models of a tokenizer.json: a piece of text to ids.
import { bytePairModel } from "./bpe.ts";
import { component, type Component, countOption, isId, isWellFormed, textOption, unsupported } from "./format.ts";
import { NoTokenError, type ModelFacts, type PieceModel } from "./piece-model.ts";
import { unigramModel } from "./unigram.ts";

/** The type of a model; files of before 2020 do not name it. */
function typeOf(model: Component): string | undefined {
  if (model.type !== undefined) return model.type;
  if (Array.isArray(model["vocab"])) return "Unigram";
  if (model["merges"] !== undefined) return "BPE";
  return model["continuing_subword_prefix"] !== undefined
    ? "WordPiece"
    : model["unk_token"] !== undefined
      ? "WordLevel"
      : undefined;
}

/** The tokens of a model. */
export function vocabulary(model: Component): Map<string, number> {
  const vocab = model["vocab"];
  const tokens = new Map<string, number>();
  const add = (token: unknown, id: unknown): void => {
    if (typeof token !== "string" || !isWellFormed(token))
      throw new Error(`token ${JSON.stringify(token)} is not text`);
    if (!isId(id)) throw new Error(`the id of ${JSON.stringify(token)} is ${JSON.stringify(id)}`);
    tokens.set(token, id);
  };
  if (Array.isArray(vocab)) for (const [id, entry] of vocab.entries()) add((entry as unknown[])[0], id);
  else for (const [token, id] of Object.entries(component(vocab, "its model's vocabulary"))) add(token, id);
  return tokens;
}

/** @throws Error for a model that is damaged, UnsupportedError for one that is unknown. */
export function createModel(model: Component, facts: ModelFacts): PieceModel {
  switch (typeOf(model)) {
    case "BPE":
      return bytePairModel(model, facts);
    case "Unigram":
      return unigramModel(model, facts);
    case "WordPiece":
      return wordPieceModel(model, facts);
    case "WordLevel":
      return wordLevelModel(model, facts);
    default:
      throw unsupported("model", model);
  }
}

function wordLevelModel(model: Component, { vocab, special }: ModelFacts): PieceModel {
  const unknown = textOption(model, "unk_token", "<unk>");
  return {
    tokens(piece) {
      const id = vocab.get(piece);
      if (id !== undefined && !special.has(id)) return [id];
      return [unknownId(vocab, unknown, piece)];
    },
  };
}

/** Greedy: the longest token that begins the word, then the longest of those that continue it. */
function wordPieceModel(model: Component, { vocab, special }: ModelFacts): PieceModel {
  const unknown = textOption(model, "unk_token", "[UNK]");
  const prefix = textOption(model, "continuing_subword_prefix", "##");
  const longest = countOption(model, "max_input_chars_per_word", 100);
  return {
    tokens(piece) {
      const characters = [...piece];
      if (characters.length > longest) return [unknownId(vocab, unknown, piece)];
      const tokens: number[] = [];
      for (let from = 0; from < characters.length;) {
        let [to, id] = [characters.length, undefined as number | undefined];
        for (; to > from; to--) {
          id = vocab.get(`${from > 0 ? prefix : ""}${characters.slice(from, to).join("")}`);
          if (id !== undefined && !special.has(id)) break;
        }
        if (to === from) return [unknownId(vocab, unknown, piece)];
        tokens.push(id!);
        from = to;
      }
      return tokens;
    },
  };
}

function unknownId(vocab: ReadonlyMap<string, number>, token: string, piece: string): number {
  const id = vocab.get(token);
  if (id === undefined) throw new NoTokenError(piece);
  return id;
}
