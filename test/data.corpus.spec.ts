import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { expect } from "chai";
import {
  openTokenFile,
  openTokenizer,
  prepareCorpus,
  readDocuments,
  type CorpusOptions,
  type DocumentOptions,
  type Tokenizer,
} from "../lib/data/index.ts";
import { failure } from "./support/failure.ts";

describe("a corpus", () => {
  let folder: string;
  let bytes: Tokenizer;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
    bytes = await openTokenizer("bytes");
  });
  after(() => rmSync(folder, { recursive: true }));

  const put = (name: string, content: string | Buffer): string => {
    const path = join(folder, name);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, content);
    return path;
  };
  const texts = async (inputs: string | string[], options: DocumentOptions = {}): Promise<string[]> => {
    const found: string[] = [];
    for await (const { text } of readDocuments(inputs, options)) found.push(text);
    return found;
  };

  describe("is read", () => {
    it("from a file as one document, or as those between lines with a form feed", async () => {
      expect(await texts(put("one.txt", "a\nb\n"))).to.eql(["a\nb\n"]);
      expect(await texts(put("two.txt", "a\n\f\nb\n\f\n"))).to.eql(["a\n", "b\n"]);
      expect(await texts(put("inside.txt", "a\fb\n"))).to.eql(["a\fb\n"]);
      expect(await texts(put("marked.txt", "\fa\n\fb\n \f\n\f \t\r\nc\n\n\f"))).to.eql(["\fa\n\fb\n \f\n", "c\n\n"]);
      expect(await texts(put("two.txt", "a\n\f\nb\n"), { documents: "file" })).to.eql(["a\n\f\nb\n"]);
    });

    it("from a file whose form feeds lie on either side of where a read of the disk ends", async () => {
      for (let spare = 0; spare < 4; spare++) {
        const long = `${"x".repeat(2 ** 18 - 1 - spare)}\n`;
        expect(await texts(put("long.txt", `${long}\f\n${long}\f\r\nb`))).to.eql([long, long, "b"]);
      }
    });

    it("from lines, whatever ends them", async () => {
      expect(await texts(put("lines.txt", "a\r\nb b\nc"), { documents: "lines" })).to.eql(["a", "b b", "c"]);
    });

    it("from headings, not from sections or formulas, without losing a byte", async () => {
      const first =
        "\n = One = \n\n Text of one .\n which has = signs = \n = k = \n more .\n\n" + " = = Part = = \n\n Text .\n";
      const second = " \n = Two = \n \n Text = two .\n";
      const found = await texts(put("wiki.txt", first + second), { documents: "headings" });
      expect(found.join("")).to.equal(first + second);
      expect(found.map((text) => text.trim().split("\n")[0]!.trim())).to.eql(["= One =", "= Two ="]);
    });

    it("from headings where blank lines part paragraphs too", async () => {
      const text = " = One = \n\n\n A .\n\n B\n\n = k = \n\n C .\n\n\n\n = Two = \n\n\n D .\n";
      const found = await texts(put("wide.txt", text), { documents: "headings" });
      expect(found.map((document) => document.trim().split("\n")[0]!.trim())).to.eql(["= One =", "= Two ="]);
    });

    it("from the text field of .jsonl lines, or another", async () => {
      const path = put("x.jsonl", '{"text":"a\\nb"}\n\n{"text":"c","other":"d"}');
      expect(await texts(path)).to.eql(["a\nb", "c"]);
      expect(await texts(put("y.jsonl", '{"body":"a"}\n'), { field: "body" })).to.eql(["a"]);
    });

    it("from gzip as from plain text, whatever the file is called", async () => {
      expect(await texts(put("g.txt", gzipSync("a\n\f\nb")))).to.eql(["a\n", "b"]);
      expect(await texts(put("g.jsonl.gz", gzipSync('{"text":"a"}')))).to.eql(["a"]);
    });

    it("from a folder in the order of names, its other files left alone", async () => {
      put("tree/b.txt", "b");
      put("tree/a/z.md", "z");
      put("tree/c.txt.gz", gzipSync("c"));
      put("tree/photo.jpg", "j");
      expect(await texts(join(folder, "tree"))).to.eql(["z", "b", "c"]);
      expect(await texts([join(folder, "tree"), put("last.txt", "l")])).to.eql(["z", "b", "c", "l"]);
    });

    it("across the chunks in which a file comes from the disk", async () => {
      const lines = Array.from({ length: 9_000 }, (_, i) => `${"é😀".repeat(i % 90)} ${i}\n`);
      const text = lines.join("") + "x".repeat(600_000) + "\nend";
      expect((await texts(put("long.txt", text)))[0] === text).to.be.true;
      expect((await texts(put("long.txt", text), { documents: "lines" })).join("\n") === text).to.be.true;
    });

    it("without its byte order mark", async () => {
      expect(await texts(put("bom.txt", "\ufeffa"))).to.eql(["a"]);
    });
  });

  describe("refuses", () => {
    const cases: [string, () => string | string[], DocumentOptions, string, RegExp][] = [
      ["an empty file", () => put("empty.txt", ""), {}, "DATA", /Document 1 of .*empty\.txt is empty/],
      ["white space", () => put("blank.txt", " \n\t\n"), {}, "DATA", /Document 1 of .*blank\.txt is empty/],
      ["an empty document", () => put("gap.txt", "a\n\f\n\n\f\nb\n"), {}, "DATA", /Document 2 of .*gap\.txt is empty/],
      ["an empty line", () => put("gap2.txt", "a\n\nb\n"), { documents: "lines" }, "DATA", /Document 2 of .* is empty/],
      ["an empty text", () => put("e.jsonl", '{"text":""}'), {}, "DATA", /Document 1 of .*e\.jsonl is empty/],
      ["broken JSON", () => put("b.jsonl", '{"text":"a"}\n{"text'), {}, "DATA", /b\.jsonl line 2 is not JSON/],
      ["a missing field", () => put("f.jsonl", '{"txt":"a"}'), {}, "DATA", /line 1 has no text in its field "text"/],
      ["a line that is null", () => put("n.jsonl", "null"), {}, "DATA", /line 1 has no text/],
      ["another encoding", () => put("l1.txt", Buffer.from([0x61, 0xe9, 0x62])), {}, "DATA", /is not UTF-8 text; con/],
      ["a cut character", () => put("cut.txt", Buffer.from([0x61, 0xc3])), {}, "DATA", /is not UTF-8 text/],
      ["damaged gzip", () => put("d.txt", gzipSync("some text").subarray(0, 15)), {}, "DATA", /is damaged gzip/],
      ["an absent file", () => join(folder, "absent.txt"), {}, "IO", /absent\.txt cannot be read: ENOENT/],
      ["a folder without text", () => join(put("none/x.jpg", "x"), ".."), {}, "DATA", /holds no \.txt, \.md or/],
      [
        "an unknown rule",
        () => put("r.txt", "a"),
        { documents: "words" as "lines" },
        "CONFIG",
        /must be one .*"words"/,
      ],
    ];
    for (const [what, inputs, options, code, message] of cases) {
      it(what, async () => {
        const error = await failure(async () => texts(inputs(), options));
        expect(error.code).to.equal(`ERR_MEMFORMER_${code}`);
        expect(error.message).to.match(message);
      });
    }

    it("nothing that is merely empty when told to skip it", async () => {
      const inputs = [put("s1.txt", ""), put("s2.txt", "a\n\f\n\f\nb"), put("s3.jsonl", '{"text":" "}')];
      expect(await texts(inputs, { skipEmpty: true })).to.eql(["a\n", "b"]);
    });
  });

  describe("is prepared", () => {
    const read = async (path: string): Promise<string[]> => {
      await using file = await openTokenFile(path);
      const found: string[] = [];
      for (let d = 0; d < file.documents; d++) found.push(bytes.decode(await file.read(d, 0, file.documentLength(d))));
      return found;
    };
    const lines = Array.from({ length: 200 }, (_, i) => `document ${i} ${"é".repeat(i % 7)}`);
    type Parts = Record<"train" | "valid", string[]>;
    const prepare = async (out: string, options: Partial<CorpusOptions> = {}): Promise<Parts> => {
      const inputs = put("lines200.txt", lines.join("\n"));
      const made = await prepareCorpus({
        inputs,
        tokenizer: bytes,
        out: join(folder, out),
        documents: "lines",
        heldOut: 0.1,
        ...options,
      });
      const written = readdirSync(join(folder, out)).sort();
      expect(written).to.eql(made.valid ? ["train.tokens", "valid.tokens"] : ["train.tokens"]);
      return { train: await read(made.train.path), valid: made.valid ? await read(made.valid.path) : [] };
    };

    it("into whole documents, each in one of both files and in their order", async () => {
      const { train, valid } = await prepare("p1");
      expect([...train, ...valid].sort()).to.eql([...lines].sort());
      expect(train).to.eql(lines.filter((line) => train.includes(line)));
      const [held, all] = [valid, lines].map((some) => Buffer.byteLength(some.join("")));
      expect(held! / all!).to.be.within(0.05, 0.15);
    });

    it("in the same way for the same seed, in another for another", async () => {
      const [a, b, c] = [await prepare("p2"), await prepare("p3"), await prepare("p4", { seed: 1 })];
      expect(a).to.eql(b);
      expect(a.valid).not.to.eql(c.valid);
    });

    it("with at least one document held out and one kept", async () => {
      const inputs = put("pair.txt", "a\nb");
      for (const heldOut of [0.001, 0.999]) {
        const { train, valid } = await prepare("p5", { inputs, heldOut });
        expect([train.length, valid.length]).to.eql([1, 1]);
      }
    });

    it("with the tail held out, from a line's start, if there is only one document", async () => {
      const text = Array.from({ length: 100 }, (_, i) => `line ${i}\n`).join("");
      const { train, valid } = await prepare("p6", { inputs: put("single.txt", text), documents: "file" });
      expect(train[0]! + valid[0]!).to.equal(text);
      expect(valid[0]).to.match(/^line 9\d\n/);
      const inputs = put("smileys.txt", "😀".repeat(7));
      const smileys = await prepare("p6", { inputs, documents: "file", heldOut: 0.5 });
      expect([smileys.train[0], smileys.valid[0]]).to.eql(["😀".repeat(3), "😀".repeat(4)]);
    });

    it("without a held-out file for a share of 0, and removes one that was there", async () => {
      await prepare("p7");
      const { train } = await prepare("p7", { heldOut: 0 });
      expect(train).to.eql(lines);
    });

    it("telling how far it is", async () => {
      const seen: { documents: number; tokens: number; bytes: number }[] = [];
      await prepare("p8", { onProgress: (done) => seen.push(done) });
      expect(seen).to.have.length(200);
      expect(seen.at(-1)).to.include({ documents: 200, bytes: Buffer.byteLength(lines.join("")) });
    });

    it("whole or not at all: a refusal leaves only what was there before", async () => {
      const before = await prepare("p9");
      const out = join(folder, "p9");
      const controller = new AbortController();
      const cases: [Partial<CorpusOptions>, string, RegExp][] = [
        [{ inputs: put("bad.txt", "a\n\nb") }, "DATA", /Document 2 of .*bad\.txt is empty/],
        [{ inputs: put("tiny.txt", "a"), documents: "file" }, "DATA", /tiny\.txt is too short to hold a part of it/],
        [{ heldOut: 1 }, "CONFIG", /heldOut must be a share from 0 to below 1, got 1/],
        [{ heldOut: "0.1" as unknown as number }, "CONFIG", /heldOut must be .* got "0.1"/],
        [{ seed: -1 }, "CONFIG", /seed must be a whole number of at least 0, got -1/],
        [{ signal: controller.signal, onProgress: () => controller.abort() }, "ABORTED", /was aborted/],
      ];
      for (const [options, code, message] of cases) {
        const inputs = join(folder, "lines200.txt");
        const error = await failure(async () =>
          prepareCorpus({ inputs, tokenizer: bytes, out, documents: "lines", ...options }),
        );
        expect(error.code).to.equal(`ERR_MEMFORMER_${code}`);
        expect(error.message).to.match(message);
        expect(readdirSync(out).sort()).to.eql(["train.tokens", "valid.tokens"]);
      }
      expect(await read(join(out, "train.tokens"))).to.eql(before.train);
      const blocked = await failure(async () =>
        prepareCorpus({ inputs: join(folder, "tiny.txt"), tokenizer: bytes, out: join(put("file", ""), "out") }),
      );
      expect(blocked.code).to.equal("ERR_MEMFORMER_IO");
      expect(blocked.message).to.match(/The folder .*out cannot be written/);
    });
  });
});
