import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import {
  documentRange,
  isTokenFile,
  openTokenFile,
  openTokenizer,
  tokensInMemory,
  writeTokenFile,
  type Tokenizer,
  type TokenDocument,
  type TokenSource,
} from "../lib/data/index.ts";
import { failure } from "./support/failure.ts";

async function wholeDocuments(source: TokenSource): Promise<number[][]> {
  return Promise.all(
    Array.from({ length: source.documents }, async (_, i) => [...(await source.read(i, 0, source.documentLength(i)))]),
  );
}

/** A tokenizer of `vocabulary` ids, its last one BOS, for documents that are never text. */
function numbers(vocabulary: number): Tokenizer {
  const none = (): never => {
    throw new Error("not text");
  };
  const name = "numbers";
  return { name, spec: name, vocabulary, bos: vocabulary - 1, encode: none, decode: none, decoder: none };
}

describe("token files", () => {
  let folder: string;
  let bytes: Tokenizer;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
    bytes = await openTokenizer("bytes");
  });
  after(() => rmSync(folder, { recursive: true }));

  const write = async (path: string, documents: TokenDocument[], tokenizer = bytes): Promise<string> => {
    await writeTokenFile(join(folder, path), documents, tokenizer);
    return join(folder, path);
  };

  it("give back what was written, in 1, 2 or 4 bytes a token, as the twin in memory does", async () => {
    const vocabularies = [
      [257, "uint8"],
      [258, "uint16"],
      [65537, "uint16"],
      [65538, "uint32"],
    ] as const;
    for (const [vocabulary, dtype] of vocabularies) {
      const tokenizer = numbers(vocabulary);
      const document = fc.array(fc.integer({ min: 0, max: vocabulary - 2 }), { minLength: 1, maxLength: 50 });
      await fc.assert(
        fc.asyncProperty(fc.array(document, { minLength: 1, maxLength: 8 }), async (documents) => {
          const given = documents.map((tokens) => ({ tokens, bytes: tokens.length * 3 }));
          const path = await write("round.tokens", given, tokenizer);
          await using file = await openTokenFile(path);
          expect(file.header.dtype).to.equal(dtype);
          for (const source of [file, tokensInMemory(given, tokenizer)]) {
            expect(await wholeDocuments(source)).to.eql(documents);
            expect(source.tokens).to.equal(documents.flat().length);
            expect(source.bytes).to.equal(source.tokens * 3);
            expect(source.documentBytes(documents.length - 1)).to.equal(documents.at(-1)!.length * 3);
            expect(source.tokenizer).to.eql({ name: "numbers", vocabulary, bos: vocabulary - 1 });
          }
        }),
        { numRuns: 15 },
      );
    }
  });

  it("read any part of a file larger than the cache", async () => {
    const documents = [1_000, 300_000, 65_536, 7, 131_072].map((length, d) =>
      Int32Array.from({ length }, (_, i) => (i * 7 + d) % 251),
    );
    const path = await write(
      "large.tokens",
      documents.map((tokens) => ({ tokens, bytes: tokens.length })),
    );
    await using file = await openTokenFile(path, { cacheBytes: 1 });
    const part = fc
      .integer({ min: 0, max: 4 })
      .chain((d) => fc.tuple(fc.constant(d), fc.nat(documents[d]!.length), fc.nat(documents[d]!.length)));
    await fc.assert(
      fc.asyncProperty(fc.array(part, { minLength: 1, maxLength: 5 }), async (parts) => {
        const found = await Promise.all(parts.map(async ([d, a, b]) => file.read(d, Math.min(a, b), Math.max(a, b))));
        parts.forEach(([d, a, b], i) => {
          const expected = documents[d]!.subarray(Math.min(a, b), Math.max(a, b));
          expect(Buffer.compare(Buffer.from(found[i]!), Buffer.from(expected))).to.equal(0);
        });
      }),
      { numRuns: 60 },
    );
  });

  it("read into an array they are given, and leave the rest of it alone", async () => {
    await using file = await openTokenFile(await write("into.tokens", [bytes.encode("abcdef")]));
    const into = new Int32Array(5).fill(-1);
    const read = await file.read(0, 2, 5, into);
    expect([...into]).to.eql([99, 100, 101, -1, -1]);
    expect(read.buffer).to.equal(into.buffer);
    expect(read.length).to.equal(3);
  });

  it("count the bytes of a text from its tokens if they are not told", async () => {
    await using file = await openTokenFile(await write("counted.tokens", [bytes.encode("naïve"), bytes.encode("😀")]));
    expect([file.bytes, file.documentBytes(0), file.documentBytes(1)]).to.eql([10, 6, 4]);
  });

  it("make the folders they need, and can be told from other files", async () => {
    const path = await write("deep/er/x.tokens", [bytes.encode("x")]);
    writeFileSync(join(folder, "plain.txt"), "text");
    expect(await isTokenFile(path)).to.be.true;
    expect(await isTokenFile(join(folder, "plain.txt"))).to.be.false;
    expect(await isTokenFile(join(folder, "absent"))).to.be.false;
  });

  it("leave nothing behind, and an earlier file whole, when writing fails", async () => {
    const path = await write("kept/x.tokens", [bytes.encode("old")]);
    const broken = async function* (): AsyncGenerator<Int32Array> {
      yield new Int32Array(2_000_000);
      throw new Error("the source broke");
    };
    expect((await failure(async () => writeTokenFile(path, broken(), bytes))).message).to.equal("the source broke");
    const cases: [TokenDocument[], string, string][] = [
      [[], "ERR_MEMFORMER_DATA", "There are no documents"],
      [[bytes.encode("a"), new Int32Array(0)], "ERR_MEMFORMER_DATA", "Document 1 is empty"],
      [[Int32Array.of(1, 256)], "ERR_MEMFORMER_TOKEN_RANGE", "Token 1 of document 0 is 256"],
      [[{ tokens: [1, -1], bytes: 2 }], "ERR_MEMFORMER_TOKEN_RANGE", "Token 1 of document 0 is -1"],
    ];
    for (const [documents, code, message] of cases) {
      const error = await failure(async () => writeTokenFile(path, documents, bytes));
      expect(error.code).to.equal(code);
      expect(error.message).to.include(message);
    }
    expect(readdirSync(join(folder, "kept"))).to.eql(["x.tokens"]);
    await using file = await openTokenFile(path);
    expect(bytes.decode(await file.read(0, 0, 3))).to.equal("old");
  });

  it("refuse a place that cannot be written, naming it", async () => {
    writeFileSync(join(folder, "a-file"), "");
    const path = join(folder, "a-file", "x.tokens");
    const error = await failure(async () => writeTokenFile(path, [bytes.encode("x")], bytes));
    expect(error.code).to.equal("ERR_MEMFORMER_IO");
    expect(error.message).to.include(`${path} cannot be written`);
  });

  it("say that there is no room for them, and leave nothing behind", () => {
    // A limit on a file's size stands in for a full disk: it needs no rights, and the write fails half-way as well.
    const path = join(folder, "full", "x.tokens");
    const library = new URL("../lib/data/index.ts", import.meta.url).href;
    const script = `
      import { openTokenizer, writeTokenFile } from ${JSON.stringify(library)};
      const documents = Array.from({ length: 4 }, () => new Int32Array(1 << 20));
      await writeTokenFile(${JSON.stringify(path)}, documents, await openTokenizer("bytes"))
        .then(() => console.log("written"), (error) => console.log(error.code, error.message));`;
    const shell = 'ulimit -f 3000; exec "$0" --import tsx --input-type=module -e "$1"';
    const { stdout, stderr } = spawnSync("bash", ["-c", shell, process.execPath, script], { encoding: "utf8" });
    expect(stdout, stderr).to.match(/^ERR_MEMFORMER_IO .*x\.tokens cannot be written: EFBIG/);
    expect(readdirSync(join(folder, "full"))).to.eql([]);
  });

  describe("that are damaged", () => {
    let whole: Buffer;
    before(async () => {
      whole = readFileSync(await write("whole.tokens", [bytes.encode("hello"), bytes.encode("world!")]));
    });
    const opening = async (content: Buffer): Promise<{ code?: string; message: string }> => {
      writeFileSync(join(folder, "damaged.tokens"), content);
      return failure(async () => openTokenFile(join(folder, "damaged.tokens")));
    };
    const withHeader = (change: (header: Record<string, unknown>) => void): Buffer => {
      const header = JSON.parse(whole.toString("utf8", 12, 12 + whole.readUInt32LE(8))) as Record<string, unknown>;
      change(header);
      const copy = Buffer.from(whole);
      const json = Buffer.from(JSON.stringify(header));
      copy.fill(0, 12, 4096);
      copy.writeUInt32LE(json.length, 8);
      json.copy(copy, 12);
      return copy;
    };

    it("by a cut at any byte are refused", async () => {
      for (const length of [0, 1, 7, 8, 11, 12, 100, 4095, 4096, 4097, whole.length - 16, whole.length - 1]) {
        const error = await opening(whole.subarray(0, length));
        expect(error.code, `${length} bytes`).to.equal("ERR_MEMFORMER_DATA");
        expect(error.message).to.match(/is not a token file|damaged header|cut short/);
      }
    });

    it("by more bytes, another version or a foreign beginning are refused, each in its words", async () => {
      const cases: [Buffer, string][] = [
        [Buffer.concat([whole, Buffer.from("x")]), "is longer than its header says"],
        [withHeader((h) => (h["version"] = 2)), "is of another version; this memformer reads version 1"],
        [Buffer.from("\x93NUMPY and so on"), "is not a token file"],
        [withHeader((h) => (h["dtype"] = "float64")), "damaged header: dtype"],
        [withHeader((h) => (h["tokens"] = -1)), "damaged header: tokens"],
        [withHeader((h) => (h["tokens"] = 2 ** 60)), "damaged header: tokens"],
        [withHeader((h) => (h["documents"] = 1e15)), "is cut short"],
        [withHeader((h) => (h["bos"] = 257)), "BOS 257 outside its vocabulary of 257"],
        [withHeader((h) => (h["extra"] = 1)), "damaged header"],
        [withHeader((h) => (h["bytes"] = 12)), "table that disagrees with its header"],
      ];
      for (const [content, message] of cases) {
        const error = await opening(content);
        expect(error.code, message).to.equal("ERR_MEMFORMER_DATA");
        expect(error.message).to.include(message).and.include("damaged.tokens");
      }
      const swapped = Buffer.from(whole);
      swapped.writeBigUInt64LE(0n, whole.length - 32);
      expect((await opening(swapped)).message).to.include("document 0 ends before it starts");
      const length = Buffer.from(whole);
      length.writeUInt32LE(0xffffffff, 8);
      expect((await opening(length)).message).to.include("has a damaged header");
    });

    it("by a foreign token are refused when that token is read", async () => {
      const tokenizer = numbers(300);
      const path = await write("foreign.tokens", [{ tokens: [1, 298, 3], bytes: 3 }], tokenizer);
      const content = readFileSync(path);
      content.writeUInt16LE(299, 4096 + 2);
      writeFileSync(path, content);
      await using file = await openTokenFile(path);
      expect([...(await file.read(0, 0, 1))]).to.eql([1]);
      const error = await failure(async () => file.read(0, 0, 3));
      expect(error.code).to.equal("ERR_MEMFORMER_DATA");
      expect(error.message).to.include("it holds token 299, its ids run from 0 to 298");
    });

    it("while they are open are refused at the next read", async () => {
      const path = await write("shrinking.tokens", [new Int32Array(200_000)]);
      await using file = await openTokenFile(path);
      truncateSync(path, 5_000);
      const error = await failure(async () => file.read(0, 0, 200_000));
      expect(error.code).to.equal("ERR_MEMFORMER_DATA");
      expect(error.message).to.include("was cut short while it was being read");
    });
  });

  it("refuse ranges outside a document, arrays too small, and reading after close", async () => {
    const file = await openTokenFile(await write("ranges.tokens", [bytes.encode("abc")]));
    for (const source of [file, tokensInMemory([bytes.encode("abc")], bytes)]) {
      const ranges = [
        [0, 0, 4],
        [0, -1, 2],
        [0, 2, 1],
        [1, 0, 0],
        [-1, 0, 1],
        [0.5, 0, 1],
        [0, 0.5, 1],
      ] as const;
      for (const [d, from, to] of ranges) {
        const error = await failure(async () => source.read(d, from, to, new Int32Array(9)));
        expect(error.code, `${d} ${from} ${to}`).to.equal("ERR_MEMFORMER_CONFIG");
        expect(error.message).to.match(/no document|are not inside document 0, which has 3/);
      }
      const small = await failure(async () => source.read(0, 0, 3, new Int32Array(2)));
      expect(small.message).to.include("holds 2 tokens, 3 were asked for");
    }
    await file.close();
    await file.close();
    const closed = await failure(async () => file.read(0, 0, 1));
    expect(closed.code).to.equal("ERR_MEMFORMER_DISPOSED");
    expect(closed.message).to.include("was closed");
    expect((await failure(async () => openTokenFile(join(folder, "absent")))).code).to.equal("ERR_MEMFORMER_IO");
    const cache = await failure(async () => openTokenFile(file.path, { cacheBytes: -1 }));
    expect(cache.message).to.include("cacheBytes must be a whole number of at least 0, got -1");
  });

  it("can be looked at in part", async () => {
    const source = tokensInMemory(
      ["a", "bc", "def"].map((text) => bytes.encode(text)),
      bytes,
    );
    const view = documentRange(source, 1, 3);
    expect([view.documents, view.tokens, view.bytes]).to.eql([2, 5, 5]);
    expect((await wholeDocuments(view)).map((tokens) => bytes.decode(tokens))).to.eql(["bc", "def"]);
    expect((await failure(async () => view.read(2, 0, 1))).code).to.equal("ERR_MEMFORMER_CONFIG");
  });
});
