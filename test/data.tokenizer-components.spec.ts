import { expect } from "chai";
import { createDecoder } from "../lib/data/tokenizers/json/decoders.ts";
import type { Component } from "../lib/data/tokenizers/json/format.ts";
import { createNormalizer } from "../lib/data/tokenizers/json/normalizers.ts";
import { createPreTokenizer } from "../lib/data/tokenizers/json/pretokenizers.ts";
import reference from "./fixtures/tokenizers/components.json" with { type: "json" };

type Cases<T> = [Component, T[]][];
const label = (part: Component): string => JSON.stringify(part).slice(0, 160);

describe(`components of a tokenizer.json do as those of Python's tokenizers ${reference.tokenizers}:`, () => {
  const { texts, words } = reference;

  describe("normalizers", () => {
    for (const [part, expected] of reference.normalizers as unknown as Cases<string>) {
      it(label(part), () => {
        const normalize = createNormalizer(part);
        expect(texts.map((text) => normalize(text, false))).to.eql(expected);
      });
    }
  });

  describe("pre-tokenizers", () => {
    for (const [part, expected] of reference.preTokenizers as unknown as Cases<string[]>) {
      it(label(part), () => {
        const { split, finish } = createPreTokenizer(part);
        expect(texts.map((text) => Array.from(split(text, "start"), finish))).to.eql(expected);
      });
    }
  });

  describe("decoders", () => {
    for (const [part, expected] of reference.decoders as unknown as Cases<string | null>) {
      it(label(part), () => {
        const decode = (tokens: string[]): string => {
          let text = "";
          const sink = createDecoder(part)((piece) => void (text += piece));
          for (const token of tokens) sink.token(token);
          sink.end();
          return text;
        };
        expect(words.map((tokens, i) => (expected[i] === null ? null : decode(tokens)))).to.eql(expected);
      });
    }
  });
});
