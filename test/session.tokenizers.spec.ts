import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { openTokenizer, Session, Tensor, type Memformer, type Tokenizer } from "../lib/index.ts";
import { encodeAsync } from "../lib/data/encode-async.ts";
import { tinyModel } from "./support/models.ts";
import { metaspaceJson } from "./support/tokenizers.ts";

describe("sessions with tokenizers that write a space before words", function () {
  this.timeout(60_000);
  const [the, sea] = [2, 3];
  let folder: string;
  let tokenizer: Tokenizer;
  let model: Memformer;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
    writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(metaspaceJson));
    tokenizer = await openTokenizer(join(folder, "tokenizer.json"));
    model = await tinyModel({ vocabulary: tokenizer.vocabulary, bos: tokenizer.bos, precision: "float32" });
  });
  after(async () => {
    await model.dispose();
    rmSync(folder, { recursive: true });
  });

  /** What a session says when its model always draws `token`. */
  async function says(session: Session, token: number, maxTokens = 2): Promise<string> {
    const logits = new Float32Array(tokenizer.vocabulary).fill(-100);
    logits[token] = 100;
    model.logits = () => Tensor.from(logits, [1, tokenizer.vocabulary]);
    try {
      let text = "";
      for await (const piece of session.generate({ maxTokens, temperature: 0 })) text += piece;
      return text;
    } finally {
      Reflect.deleteProperty(model, "logits");
    }
  }

  it("begin a text without it and a continuation with it", async () => {
    using session = await Session.open(model, tokenizer);
    expect(await says(session, the)).to.equal("the the");
    expect(await says(session, sea)).to.equal(" sea sea");
    await session.read([0]); // an unknown word says nothing and is no start
    expect(await says(session, sea, 1)).to.equal(" sea");
  });

  it("continue after a segment's end, and after being saved", async () => {
    using session = await Session.open(model, tokenizer);
    await session.read(new Array<number>(model.config.segmentLength).fill(the));
    expect(session.pending).to.equal(0);
    using restored = await Session.restore(model, await session.save(), tokenizer);
    expect(await says(session, sea, 1)).to.equal(" sea");
    expect(await says(restored, sea, 1)).to.equal(" sea");
  });

  it("read text in pieces as one text, without spaces of their own", async () => {
    const tokens: number[] = [];
    const spy = {
      ...tokenizer,
      encodeParts: (text: string, options?: object) => {
        const part = tokenizer.encode(text, options);
        tokens.push(...part);
        return [part];
      },
    };
    using session = await Session.open(model, spy);
    for (const piece of ["the", " sea", " the sea", ""]) await session.read(piece);
    expect(tokens).to.eql([the, sea, the, sea]);
    expect(tokenizer.decode(tokens)).to.equal("the sea the sea");
  });
});

describe("encoding a long text", () => {
  it("lets other work of the thread go on", async () => {
    const tokenizer = await openTokenizer("gpt2");
    const text = Array.from({ length: 200_000 }, (_, i) => `word${i * 7919}`).join(" ");
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const tokens = await encodeAsync(tokenizer, text);
    clearInterval(timer);
    expect(turns).to.be.at.least(5);
    expect(tokenizer.decode(tokens) === text).to.equal(true);
  });

  it("gives what encode gives, also for a tokenizer of one's own", async () => {
    const bytes = await openTokenizer("bytes");
    const own: Tokenizer = { ...bytes };
    Reflect.deleteProperty(own, "encodeParts");
    expect([...(await encodeAsync(own, "naïve"))]).to.eql([...bytes.encode("naïve")]);
    expect([...(await encodeAsync(bytes, ""))]).to.eql([]);
  });
});
