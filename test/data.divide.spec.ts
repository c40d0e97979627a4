import { expect } from "chai";
import fc from "fast-check";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { cutPlace, divide } from "../lib/data/divide.ts";
import { documentHash, openDataset, openTokenizer, readDocuments, type TokenSource } from "../lib/data/index.ts";

const tokenizer = await openTokenizer("bytes");

describe("what is held out of a corpus", () => {
  const shares = fc.constantFrom(0.02, 0.05, 0.1, 0.3, 0.5, 0.8);
  const sizes = fc
    .array(
      fc.record({
        name: fc.integer({ min: 0, max: 60 }),
        tokens: fc.oneof(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 50_000 })),
      }),
      { minLength: 1, maxLength: 80 },
    )
    .map((all) => all.map(({ name, tokens }) => ({ hash: documentHash(`${name} ${tokens}`), tokens })));

  it("is about the share, never half as much again, and all copies of a document or none", () => {
    fc.assert(
      fc.property(sizes, shares, fc.nat(5), (documents, share, seed) => {
        const total = documents.reduce((sum, { tokens }) => sum + tokens, 0);
        const { held, cut } = divide(documents, share, seed);
        let out = 0;
        for (const { hash, tokens } of documents)
          out += held.has(hash) ? tokens : hash === cut?.hash ? tokens * cut.share : 0;
        expect(out, "something is held out").to.be.above(0);
        expect(out, "something is left").to.be.below(
          total + (new Set(documents.map(({ hash }) => hash)).size === 1 ? 1e-6 : 0),
        );
        if (share * total < 4) return; // a whole document, then
        expect(out / total).to.be.within(0.5 * share - 4 / total, 1.5 * share + 1e-9);
      }),
      { numRuns: 500 },
    );
  });

  it("is still so when documents come, and the same in any order", () => {
    let [changed, all] = [0, 0];
    fc.assert(
      fc.property(fc.nat(1e6), fc.nat(5), (salt, seed) => {
        const documents = Array.from({ length: 400 }, (_, i) => ({
          hash: documentHash(`${salt} ${i}`),
          tokens: 50 + ((i * 37) % 100),
        }));
        const before = divide(documents.slice(0, 350), 0.1, seed).held,
          after = divide(documents, 0.1, seed).held;
        expect(divide(documents.toReversed(), 0.1, seed).held).to.deep.equal(new Set(after));
        for (const { hash } of documents.slice(0, 350)) {
          all++;
          if (before.has(hash) !== after.has(hash)) changed++;
        }
      }),
      { numRuns: 60 },
    );
    // Only where the draw is at the edge of what is allowed.
    expect(changed, `${changed} of ${all} changed sides`).to.be.at.most(all / 1000);
  });

  it("is cut at a line's end or a blank near the place, never inside a character", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom("a", " ", "\n", "é", "😀"), minLength: 2, maxLength: 300 }),
        shares,
        (text, share) => {
          const at = cutPlace(text, share);
          if (at === undefined) return;
          expect(at).to.be.within(1, text.length - 1);
          for (const part of [text.slice(0, at), text.slice(at)]) expect(part).to.equal(Buffer.from(part).toString());
          const wanted = text.length - Math.min(Math.max(1, Math.floor(text.length * (1 - share))), text.length - 1);
          expect(text.length - at).to.be.within(Math.floor(wanted / 2), Math.ceil(1.5 * wanted) + 1);
        },
      ),
    );
    expect(cutPlace("a", 0.5)).to.equal(undefined);
    expect(cutPlace("😀", 0.5)).to.equal(undefined);
    expect(cutPlace("line one\nline two\nlast", 0.3)).to.equal(18);
  });
});

describe("a folder as a corpus", function () {
  this.timeout(120_000);
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "memformer-divide-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));
  const put = (path: string, content: string | Buffer): void => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  };
  const open = async (heldOut: number): ReturnType<typeof openDataset> =>
    openDataset(join(folder, "f"), { tokenizer, heldOut, cache: join(folder, "cache") });
  const textsOf = async (source: TokenSource): Promise<string[]> =>
    Promise.all(
      Array.from({ length: source.documents }, async (_, i) =>
        tokenizer.decode(await source.read(i, 0, source.documentLength(i))),
      ),
    );

  it("has the texts of its files alone, on one side each, whatever they are called and however often they are there", async () => {
    const names = fc
      .stringMatching(/^[a-zA-Z0-9 _-]{1,8}$/)
      .filter((name) => name !== "" && !/^(train|valid|validation|val|test)$/i.test(name));
    const hidden = fc.constantFrom(
      ".git/",
      ".ipynb_checkpoints/",
      "node_modules/x/",
      "__pycache__/",
      "a/.cache/",
      "._",
      ".",
      "#",
      "~$",
      "__MACOSX/",
    );
    const files = fc.uniqueArray(
      fc.record({
        name: names,
        nested: fc.boolean(),
        copyOf: fc.option(fc.nat(3)),
        lines: fc.integer({ min: 1, max: 60 }),
        litter: fc.option(hidden, { freq: 3 }),
      }),
      { minLength: 2, maxLength: 12, selector: ({ name }) => name.trim().toLowerCase() },
    );
    await fc.assert(
      fc.asyncProperty(files, fc.constantFrom(0.05, 0.2, 0.5), async (all, share) => {
        rmSync(join(folder, "f"), { recursive: true, force: true });
        const written: string[] = [];
        for (const [i, { name, nested, copyOf, lines, litter }] of all.entries()) {
          const text =
            copyOf === null ? `Essay ${name} ${i}.\n`.repeat(lines) : `A copied text, number ${copyOf}.\n`.repeat(20);
          const file = litter === "#" ? `#${name}.txt#` : `${litter ?? ""}${name}.txt`;
          put(join("f", nested ? "deeper/down" : ".", file), text);
          if (litter === null) written.push(text);
        }
        if (written.length === 0) return;
        await using data = await open(share);
        const [train, valid] = [await textsOf(data.train), await textsOf(data.valid)];
        const cut = data.notes.some((note) => note.includes("the end of a document"));
        expect([...train, ...valid].join("").length).to.equal(written.join("").length);
        if (!cut) {
          expect([...train, ...valid].sort()).to.deep.equal([...written].sort());
          expect(
            valid.filter((text) => train.includes(text)),
            "on both sides",
          ).to.deep.equal([]);
        }
        const total = written.join("").length;
        expect(data.valid.tokens).to.be.above(0).and.below(total);
        if (share * total > 100) expect(data.valid.tokens / total).to.be.within(0.4 * share, 1.7 * share); // lines are cut whole
        expect(data.notes[0]).to.match(new RegExp(`^${written.length} files? read`));
      }),
      { numRuns: 60 },
    );
  });

  it("with one large document holds out a part of it", async () => {
    put("f/a.txt", "A long book about the sea. ".repeat(20_000));
    put("f/b.txt", "A preface. ".repeat(30));
    await using data = await open(0.05);
    expect(data.valid.tokens / 540_330).to.be.within(0.025, 0.075);
    expect(data.notes.at(-1)).to.match(
      /^\d documents? of \d+ tokens held out \([\d.]+ %, the end of a document among them\), \d documents? of \d+ tokens trained on$/,
    );
  });

  it("grown by a document holds out what it did, and nothing that was trained on", async () => {
    for (let i = 0; i < 100; i++) put(`f/${i}.txt`, `About number ${i}. `.repeat(40));
    await using before = await open(0.05);
    const [train, valid] = [await textsOf(before.train), await textsOf(before.valid)];
    put("f/one-more.txt", "And one more. ".repeat(60));
    await using after = await open(0.05);
    const now = await textsOf(after.valid);
    expect(now).to.include.members(valid);
    expect(now.filter((text) => train.includes(text))).to.deep.equal([]);
  });

  it("has a damaged or missing file of the pair made anew, and never a pair of two preparations", async () => {
    for (let i = 0; i < 40; i++) put(`f/${i}.txt`, `About number ${i}. `.repeat(40));
    const pair = async (): Promise<string[][]> => {
      await using data = await open(0.1);
      return [await textsOf(data.train), await textsOf(data.valid)];
    };
    const before = await pair();
    const { readdirSync, readFileSync, truncateSync } = await import("node:fs");
    const place = join(folder, "cache", readdirSync(join(folder, "cache"))[0]!);
    for (const name of ["valid.tokens", "train.tokens"]) {
      rmSync(join(place, name));
      expect(await pair()).to.deep.equal(before);
      truncateSync(join(place, name), 5000);
      expect(await pair()).to.deep.equal(before);
    }
    const valid = readFileSync(join(place, "valid.tokens"));
    put("f/40.txt", "Another. ".repeat(500));
    await pair();
    const other = readdirSync(join(folder, "cache")).find((name) => join(folder, "cache", name) !== place)!;
    writeFileSync(join(folder, "cache", other, "valid.tokens"), valid);
    await pair();
    expect(readFileSync(join(folder, "cache", other, "valid.tokens")).equals(valid)).to.be.false;
    // A folder that was prepared by hand is refused instead.
    writeFileSync(join(folder, "cache", other, "valid.tokens"), valid);
    const error = (await openDataset(join(folder, "cache", other), { tokenizer }).catch(
      (thrown: Error) => thrown,
    )) as Error;
    expect(error.message).to.match(/train\.tokens and .*valid\.tokens come from two preparations/);
  });

  it("with a file called train says which texts are not read", async () => {
    for (const name of ["car", "boat", "bike", "train"]) put(`f/${name}.txt`, `About a ${name}. `.repeat(300));
    await using data = await open(0.1);
    expect(data.notes[0]).to.equal(
      "train.txt is taken for splits by name, so 3 other text files are not read (bike.txt, boat.txt, car.txt)",
    );
  });

  it("with splits of its own says how many of their documents are trained on too", async () => {
    put("f/train.jsonl", ["a", "b", "c", "b"].map((text) => JSON.stringify({ text })).join("\n"));
    put("f/valid.jsonl", ["b", "d", "b"].map((text) => JSON.stringify({ text })).join("\n"));
    await using data = await open(0.1);
    expect(data.notes).to.deep.equal(["1 of 2 different documents of valid are in train, too"]);
  });

  it("is divided as memformer 0.1 did where that is asked for, as runs that it began do", async () => {
    for (let i = 10; i < 50; i++) put(`f/${i}.txt`, `About number ${i}. `.repeat(20 + ((7 * i) % 13)));
    await using data = await openDataset(join(folder, "f"), {
      tokenizer,
      division: "order",
      cache: join(folder, "cache"),
    });
    const held = (await textsOf(data.valid)).map((text) => /\d+/.exec(text)![0]);
    expect(held).to.deep.equal(["24", "26", "40"]);
    put("one.txt", "no line end here ".repeat(900));
    await using one = await openDataset(join(folder, "one.txt"), {
      tokenizer,
      division: "order",
      cache: join(folder, "cache"),
    });
    expect([one.train.tokens, one.valid.tokens]).to.deep.equal([14_535, 765]);
  });

  it("refuses what is not text, in words that say what it is", async () => {
    const refused = async (content: Buffer): Promise<string> => {
      put("x.txt", content);
      try {
        for await (const { text } of readDocuments(join(folder, "x.txt"))) expect(text, "taken for text").to.equal("");
      } catch (error) {
        expect(error).to.have.property("code", "ERR_MEMFORMER_DATA");
        return (error as Error).message;
      }
      throw new Error("taken for text");
    };
    const utf16 = Buffer.from("Some text of Latin letters.\n", "utf16le");
    expect(await refused(Buffer.concat([Buffer.of(0xff, 0xfe), utf16])))
      .to.include("is UTF-16 text")
      .and.include("iconv -f utf-16 -t utf-8");
    expect(await refused(Buffer.concat([Buffer.of(0xfe, 0xff), Buffer.from(utf16).swap16()]))).to.include(
      "iconv -f utf-16 -t utf-8",
    );
    expect(await refused(utf16)).to.include("iconv -f utf-16le -t utf-8");
    expect(await refused(Buffer.from(utf16).swap16())).to.include("iconv -f utf-16be -t utf-8");
    expect(await refused(gzipSync(utf16))).to.include("iconv -f utf-16le -t utf-8");
    expect(await refused(gzipSync(gzipSync("text")))).to.include("gzip inside gzip");
    expect(await refused(Buffer.of(0x28, 0xb5, 0x2f, 0xfd, 4, 0)))
      .to.include("compressed by zstd")
      .and.include("zstd -d");
    expect(await refused(Buffer.from("%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "latin1"))).to.include("is a PDF");
    expect(await refused(Buffer.from("a\0b"))).to.include("holds NUL bytes");
    expect(await refused(Buffer.from("na\xefve", "latin1"))).to.include("iconv -f latin1");
    expect(await refused(Buffer.from("\x93quoted\x94", "latin1"))).to.include("iconv -f windows-1252");
    expect(await refused(Buffer.from("caf\xc3", "latin1"))).to.include("ends inside a character");
    put("x.txt", "%PDF- is how a PDF begins; PAR1 is another mark.");
    for await (const { text } of readDocuments(join(folder, "x.txt"))) expect(text).to.match(/^%PDF-/);
  });
});
