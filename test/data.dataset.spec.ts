import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { expect } from "chai";
import {
  imageSource,
  openDataset,
  openTokenizer,
  pixels,
  prepareCorpus,
  readIdx,
  type DatasetOptions,
  type Tokenizer,
} from "../lib/data/index.ts";
import { failure } from "./support/failure.ts";

const shared = fileURLToPath(new URL("../../shared/data/", import.meta.url));

/** An IDX file of bytes. */
function idx(shape: number[], data: number[], type = 8): Buffer {
  const header = Buffer.alloc(4 + 4 * shape.length);
  header[2] = type;
  header[3] = shape.length;
  shape.forEach((size, i) => header.writeUInt32BE(size, 4 + 4 * i));
  return Buffer.concat([header, Buffer.from(data)]);
}

describe("a data set", () => {
  let folder: string;
  let bytes: Tokenizer;
  let options: DatasetOptions;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
    bytes = await openTokenizer("bytes");
    options = { tokenizer: bytes, cache: join(folder, "cache") };
  });
  after(() => rmSync(folder, { recursive: true }));

  const put = (name: string, content: string | Buffer): string => {
    const path = join(folder, name);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, content);
    return path;
  };

  it("called moby-dick has its front matter, 135 chapters and epilogue as documents", async () => {
    await using moby = await openDataset("moby-dick", options);
    expect(moby.train.documents + moby.valid.documents).to.equal(139);
    expect(bytes.decode(await moby.train.read(0, 0, 8))).to.equal("CONTENTS");
    expect(moby.valid.tokens / (moby.train.tokens + moby.valid.tokens)).to.be.within(0.025, 0.075);
    expect(moby.test).to.equal(undefined);
    expect(moby.names).to.eql(["train", "valid"]);
  });

  it("called sotu has 233 addresses, by year", async () => {
    await using sotu = await openDataset("sotu", options);
    expect(sotu.train.documents + sotu.valid.documents).to.equal(233);
    expect(sotu.train.bytes + sotu.valid.bytes).to.be.above(10_000_000);
  });

  it("is tokenized once and then found in the cache, until the text changes", async () => {
    const path = put("cached.txt", "first\nversion\n".repeat(20));
    const cache = join(folder, "cache-one");
    let read = 0;
    const open = async (): Promise<number> => {
      await using dataset = await openDataset(path, { ...options, cache, onProgress: () => read++ });
      return dataset.train.bytes + dataset.valid.bytes;
    };
    expect([await open(), await open(), read]).to.eql([280, 280, 1]);
    put("cached.txt", "another\n".repeat(20));
    utimesSync(path, new Date(), new Date(Date.now() + 5000));
    expect([await open(), read]).to.eql([160, 2]);
    expect(readdirSync(cache)).to.have.length(2);
  });

  it("in a folder has the splits that its files are named after", async () => {
    const dir = join(put("splits/wiki.train.txt", "train text"), "..");
    put("splits/validation.txt", "valid text");
    put("splits/x.test.jsonl.gz", gzipSync('{"text":"t1"}\n{"text":"t2"}'));
    await using dataset = await openDataset(dir, options);
    expect(dataset.names.sort()).to.eql(["test", "train", "valid"]);
    expect(bytes.decode(await dataset.valid.read(0, 0, 10))).to.equal("valid text");
    expect(dataset.test!.documents).to.equal(2);
  });

  it("in a folder with a train file alone has a part of it held out", async () => {
    const dir = join(put("alone/train.txt", "a\n\f\nb\n\f\nc\n"), "..");
    put("alone/test.txt", "t");
    await using dataset = await openDataset(dir, options);
    expect([dataset.train.documents, dataset.valid.documents, dataset.test!.documents]).to.eql([2, 1, 1]);
    expect(dataset.notes).to.eql(["1 document of 2 tokens held out (33 %), 2 documents of 4 tokens trained on"]);
  });

  it("in a folder of texts has whole ones held out, where that is about the share", async () => {
    for (const name of ["a", "b", "c"]) put(`texts/${name}.md`, name.repeat(10));
    await using dataset = await openDataset(join(folder, "texts"), { ...options, heldOut: 0.3 });
    expect([dataset.train.documents, dataset.valid.documents]).to.eql([2, 1]);
    expect(dataset.notes).to.eql([
      "3 files read",
      "1 document of 10 tokens held out (33 %), 2 documents of 20 tokens trained on",
    ]);
    await using less = await openDataset(join(folder, "texts"), { ...options, heldOut: 0.15 });
    expect([less.train.documents, less.train.tokens, less.valid.documents, less.valid.tokens]).to.eql([3, 25, 1, 5]);
    expect(less.notes[1]).to.include("(17 %, the end of a document among them)");
  });

  it("that is prepared already is opened as it is, by its own tokenizer only", async () => {
    const out = join(folder, "prepared");
    await prepareCorpus({ inputs: put("prep.txt", "a\n\f\nb\n"), tokenizer: bytes, out });
    await using dataset = await openDataset(out, options);
    expect([dataset.train.documents, dataset.valid.documents]).to.eql([1, 1]);
    const error = await failure(async () => openDataset(out, { ...options, tokenizer: pixels }));
    expect(error.code).to.equal("ERR_MEMFORMER_CONFIG");
    expect(error.message).to.include('was made with the tokenizer "bytes", not "pixels"');
  });

  it("without a split says which it has", async () => {
    await using dataset = await openDataset(put("nosplit.txt", "some text"), { ...options, heldOut: 0 });
    const error = await failure(() => dataset.valid);
    expect(error.code).to.equal("ERR_MEMFORMER_DATA");
    expect(error.message).to.match(/nosplit\.txt has no split "valid"; it has train/);
  });

  it("that does not exist is refused, with the name that was meant", async () => {
    const cases: [string, string, string][] = [
      ["moby-dik", "DATA", 'did you mean "moby-dick"?'],
      ["nothing/like/it", "DATA", "Known data sets are moby-dick, sotu"],
      ["mnist", "DATA", "write mnist:FOLDER"],
      ["wikitext-103:", "DATA", "write wikitext-103:FOLDER"],
      [`mnist:${folder}/absent`, "IO", "absent cannot be read"],
      [`mnist:${folder}`, "DATA", "holds no train-images-idx3-ubyte or train-images-idx3-ubyte.gz"],
      [`tinyshakespeare:${folder}`, "DATA", "holds none of input.txt, tinyshakespeare.txt"],
      [`wikitext-103-raw:${folder}`, "DATA", "holds none of wiki.train.raw"],
    ];
    for (const [spec, code, message] of cases) {
      const error = await failure(async () => openDataset(spec, options));
      expect(error.code, spec).to.equal(`ERR_MEMFORMER_${code}`);
      expect(error.message).to.include(message);
    }
  });

  it("that differs from the published one is refused with both numbers", async () => {
    put("false/input.txt", "To be");
    put("false/wiki.valid.tokens", "\n = A = \n\n b c\n");
    put("false/train-images-idx3-ubyte", idx([1, 1, 1], [0]));
    const cases = [
      ["tinyshakespeare", "it has 5 bytes, not 1115394"],
      ["wikitext-103", "it has 9 tokens with <eos>, not 217646"],
      ["mnist", "not 6bbc9ace898e44ae57da46a324031adb"],
    ] as const;
    for (const [name, message] of cases) {
      const error = await failure(async () => openDataset(`${name}:${join(folder, "false")}`, options));
      expect(error.code).to.equal("ERR_MEMFORMER_DATA");
      expect(error.message).to.include("is not the published file").and.include(message);
    }
    const tokenizer = await openTokenizer("gpt2");
    const gpt2 = await failure(async () => openDataset(`mnist:${folder}`, { ...options, tokenizer }));
    expect(gpt2.message).to.include('mnist has pixels for tokens: take the tokenizer "bytes", not "gpt2"');
  });

  it("called mnist is checked and split into 55,000, 5,000 and 10,000 images of 784 pixels", async function () {
    if (!existsSync(join(shared, "train-images-idx3-ubyte.gz"))) {
      console.log("      (skipped: the files of MNIST are not beside the repository in shared/data)");
      this.skip();
    }
    const dir = join(put("mnist/.keep", ""), "..");
    for (const name of ["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"]) {
      copyFileSync(join(shared, name), join(dir, name));
    }
    await using mnist = await openDataset(`mnist:${dir}`, options);
    expect([mnist.train, mnist.valid, mnist.test!].map(({ documents }) => documents)).to.eql([55_000, 5_000, 10_000]);
    expect(mnist.tokenizer.name).to.equal("pixels");
    expect([mnist.test!.documentLength(9_999), mnist.test!.documentBytes(0)]).to.eql([784, 784]);
  });

  describe("of images", () => {
    it("has one document an image, its pixels row by row", async () => {
      const file = put("i.gz", gzipSync(idx([2, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255])));
      const source = imageSource(await readIdx(file));
      expect([source.documents, source.tokenizer.bos]).to.eql([2, 256]);
      expect([...(await source.read(1, 0, 6))]).to.eql([7, 8, 9, 10, 11, 255]);
    });

    it("refuses files that are no IDX, of other elements, or cut short", async () => {
      const cases: [Buffer, string][] = [
        [Buffer.from("P5 a picture"), "is not an IDX file"],
        [Buffer.alloc(2), "is not an IDX file"],
        [idx([1], [0, 0, 0, 0], 0x0d), "holds IDX elements of type 0xd; only bytes (0x8) are read"],
        [idx([1, 2, 2], []).subarray(0, 9), "is cut short in its header"],
        [idx([1, 2, 2], [1, 2, 3]), "has 3 bytes of data; its shape 1x2x2 asks for 4"],
      ];
      for (const [content, message] of cases) {
        const error = await failure(async () => readIdx(put("bad.idx", content)));
        expect(error.code, message).to.equal("ERR_MEMFORMER_DATA");
        expect(error.message).to.include(message);
      }
      const labels = await failure(async () => imageSource(await readIdx(put("labels.idx", idx([2], [1, 2])))));
      expect(labels.message).to.include("Images have three axes (number, rows, columns), not 1");
    });
  });
});
