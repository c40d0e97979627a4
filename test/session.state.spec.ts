import { expect } from "chai";
import { writeFile } from "node:fs/promises";
import { setImmediate as turn } from "node:timers/promises";
import {
  AdamW,
  memoryUsage,
  mrbp,
  Random,
  Session,
  synchronize,
  type Memformer,
  type Tokenizer,
} from "../lib/index.ts";
import { run } from "./support/children.ts";
import { architectures } from "./support/decoding.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { temporary } from "./support/runs.ts";
import { asVersion1, jsonSession, sealed, takenApart } from "./support/sessions.ts";

/** A model over bytes whose weights are far from their start, so that what it remembers shows. */
async function reader(options: Parameters<typeof tinyModel>[0] = {}): Promise<Memformer> {
  const model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32", ...options });
  await perturb(model, 0.2);
  return model;
}

const text = "Call me Ishmael. Some years ago - never mind how long precisely - ünïcödé";

async function logitsAfter(model: Memformer, pieces: readonly (string | number[])[]): Promise<number[]> {
  using session = await Session.open(model);
  for (const piece of pieces) await session.read(piece);
  return [...(await session.logits())];
}

describe("a session", function () {
  this.timeout(120_000);

  it("fed in pieces is one fed at once, to the bit, wherever the cuts are", async () => {
    for (const architecture of architectures) {
      await using model = await reader({ architecture });
      const whole = await logitsAfter(model, [text]),
        tokens = [...new TextEncoder().encode(text)];
      expect(await logitsAfter(model, [text.slice(0, 7), "", text.slice(7, 40), text.slice(40)])).to.deep.equal(whole);
      expect(
        await logitsAfter(
          model,
          tokens.map((token) => [token]),
        ),
      ).to.deep.equal(whole);
      expect(await logitsAfter(model, [tokens.slice(0, 12), tokens.slice(12)])).to.deep.equal(whole);
      // But for a cache that the text has outgrown.
      if (!model.stateLayout.some(({ name }) => name === "cache"))
        expect(await logitsAfter(model, ["X", text.slice(1)]), "what lies far back counts").to.not.deep.equal(whole);
    }
  });

  it("says how many tokens wait for their segment to be whole", async () => {
    await using model = await reader();
    using session = await Session.open(model);
    await session.read("abcd");
    expect(session.pending).to.equal(4);
    await session.read("efgh");
    expect(session.pending).to.equal(2);
  });

  it("refuses a token outside the vocabulary, and takes nothing of it in", async () => {
    await using model = await reader();
    using session = await Session.open(model);
    await session.read("abc");
    const before = [...(await session.logits())];
    for (const bad of [257, -1, 1.5, NaN]) {
      const error = await failure(session.read([1, 2, 3, 4, 5, bad, 7]));
      expect(error.code).to.equal("ERR_MEMFORMER_TOKEN_RANGE");
      expect(error.message).to.include(`${bad} at position 5`);
    }
    expect(session.pending).to.equal(3);
    expect([...(await session.logits())]).to.deep.equal(before);
  });

  it("holds the same memory after a hundred thousand tokens as after a thousand", async () => {
    await using model = await reader({ encoderLayers: 1, decoderLayers: 1, segmentLength: 32 });
    using session = await Session.open(model);
    const random = new Random(3),
      tokens = Int32Array.from({ length: 100_000 }, () => random.below(256));
    await session.read(tokens.subarray(0, 1000));
    await synchronize();
    const start = memoryUsage().hostBytes,
      saved = (await session.save()).length;
    await session.read(tokens.subarray(1000));
    globalThis.gc?.();
    await turn();
    await synchronize();
    expect(memoryUsage().hostBytes).to.be.at.most(start);
    expect((await session.save()).length).to.be.within(saved - 200, saved + 200); // tokens are written in digits
  });

  it("is what the model gives: with bytes, or with the tokenizer named", async () => {
    await using model = await reader();
    using session = await model.session(),
      same = await model.session("bytes");
    expect(session).to.be.instanceOf(Session);
    expect([session.model, session.tokenizer.name]).to.deep.equal([model, "bytes"]);
    await session.read(text);
    await same.read(text);
    const logits = [...(await session.logits())];
    expect([...(await same.logits())]).to.deep.equal(logits);
    expect(await logitsAfter(model, [text])).to.deep.equal(logits);
    expect((await failure(model.session("gpt2"))).code).to.equal("ERR_MEMFORMER_CONFIG");
  });

  it("does one call at a time: a second one is refused as BUSY, and spoils nothing", async () => {
    await using model = await reader();
    using session = await model.session();
    const others: Record<string, () => Promise<unknown>> = {
      read: async () => session.read("xyz"),
      logits: async () => session.logits(),
      save: async () => session.save(),
      generate: async () => session.generate().next(),
    };
    const refused = async (running: string): Promise<void> => {
      for (const [name, call] of Object.entries(others)) {
        const error = await failure(call());
        expect(error.code, name).to.equal("ERR_MEMFORMER_BUSY");
        expect(error.message).to.include(`${name}() came while this session's ${running}() runs`);
      }
    };
    const reading = session.read(text);
    await refused("read");
    await reading;
    expect([...(await session.logits())]).to.deep.equal(await logitsAfter(model, [text]));
    let words = "";
    for await (const piece of session.generate({ maxTokens: 8, seed: 1, temperature: 0.2 })) {
      await refused("generate");
      words += piece;
      if (words.length > 2) break;
    }
    // A loop that was left, a call that failed and one that was refused are all over.
    expect((await failure(session.read([-1]))).code).to.equal("ERR_MEMFORMER_TOKEN_RANGE");
    const [saved, refusal] = await Promise.all([session.save(), failure(session.logits())]);
    expect(refusal.code).to.equal("ERR_MEMFORMER_BUSY");
    expect(saved.length).to.be.above(0);
    await session.read("and on");
  });

  it("refuses a tokenizer with more tokens than the model has", async () => {
    await using model = await tinyModel({ vocabulary: 100, bos: 99 });
    const error = await failure(Session.open(model));
    expect(error.code).to.equal("ERR_MEMFORMER_CONFIG");
    expect(error.message).to.match(/257 tokens, the model 100/);
  });
});

describe("a saved session", function () {
  this.timeout(120_000);

  it("goes on in another process exactly as here", async () => {
    await using model = await reader();
    using session = await Session.open(model);
    await session.read(text);
    const folder = await temporary();
    try {
      await model.save(`${folder.path}/model`);
      await writeFile(`${folder.path}/session`, await session.save());
      const { output, code } = await run(
        `
        const [folder] = process.argv.slice(1);
        const fs = await import("node:fs/promises");
        const model = await lib.Memformer.load(folder + "/model");
        const session = await lib.Session.restore(model, await fs.readFile(folder + "/session"));
        await session.read(" Go on.");
        const logits = [...await session.logits()];
        let words = "";
        for await (const piece of session.generate({ maxTokens: 20, seed: 4 })) words += piece;
        console.log("READY", JSON.stringify({ logits, words }));`,
        { args: [folder.path] },
      );
      expect(code, output).to.equal(0);
      await session.read(" Go on.");
      const logits = [...(await session.logits())];
      let words = "";
      for await (const piece of session.generate({ maxTokens: 20, seed: 4 })) words += piece;
      expect(JSON.parse(output.slice(output.indexOf("READY") + 6))).to.deep.equal({ logits, words });
    } finally {
      await folder.remove();
    }
  });

  it("is restored from a part of a larger buffer, and from a fresh session's bytes", async () => {
    await using model = await reader();
    for (const piece of [text, "", "ab", "abcdef"]) {
      using session = await Session.open(model);
      await session.read(piece);
      const bytes = await session.save(),
        inside = new Uint8Array(bytes.length + 5);
      inside.set(bytes, 3);
      const shared = Buffer.concat([Buffer.from("xyz"), bytes, Buffer.from("!")]).subarray(3, 3 + bytes.length);
      for (const given of [bytes, inside.subarray(3, 3 + bytes.length), shared]) {
        using again = await Session.restore(model, given);
        expect([...(await again.logits())]).to.deep.equal([...(await session.logits())]);
        expect(again.pending).to.equal(session.pending);
        expect(Buffer.from(await again.save()).equals(bytes)).to.be.true;
      }
    }
  });

  it("of another model or tokenizer is refused", async () => {
    await using model = await reader(),
      other = await reader({ memorySlots: 4 });
    using session = await Session.open(model);
    const bytes = await session.save();
    expect((await failure(Session.restore(other, bytes))).code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
    const named = { ...session.tokenizer, name: "json:0123456789ab" } as Tokenizer;
    const error = await failure(Session.restore(model, bytes, named));
    expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
    expect(error.message).to.include("json:0123456789ab");
  });

  it("of a model with other weights is refused, also of the same one trained on", async () => {
    await using model = await reader(),
      other = await reader({ seed: 9 }),
      twin = await reader();
    using session = await Session.open(model);
    await session.read(text);
    const bytes = await session.save();
    using same = await Session.restore(twin, bytes);
    expect([...(await same.logits())]).to.deep.equal([...(await session.logits())]);
    for (const change of [async () => other, async () => trained(model)]) {
      const error = await failure(Session.restore(await change(), bytes));
      expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
      expect(error.message).to.include("other weights");
    }
    // Saved before a hash was kept: there is nothing to compare.
    const { header, body } = asVersion1(bytes);
    delete header["weights"];
    const old = jsonSession(header, body);
    using restored = await Session.restore(other, old);
    expect(restored.pending).to.equal(session.pending);
  });

  it("costs a hash of the weights once, until they change", async () => {
    await using model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    const hash = await model.weightsHash(),
      read = model.ownParameter.bind(model);
    let reads = 0;
    model.ownParameter = (name) => {
      reads++;
      return read(name);
    };
    using session = await Session.open(model);
    await session.save();
    expect(reads).to.equal(0);
    await trained(model);
    expect(await model.weightsHash()).to.not.equal(hash);
    expect(reads).to.equal(model.parameters.length);
  });

  async function trained(model: Memformer): Promise<Memformer> {
    const { segmentLength: length, bos } = model.config,
      target = new Int32Array(length).fill(65);
    const window = [model.upload({ batch: 1, length, source: target.with(0, bos), target, reset: Uint8Array.of(1) })];
    mrbp(model, window, model.initialState(1));
    using optimizer = new AdamW(model),
      norm = model.clipGradients(0);
    optimizer.step(0.1, norm);
    await synchronize();
    return model;
  }

  it("that is hostile is refused with CHECKPOINT_FORMAT, and leaves nothing behind", async () => {
    await using model = await reader();
    using session = await Session.open(model);
    await session.read(text);
    const good = await session.save(),
      { header, body } = takenApart(good),
      { header: old, body: memory } = asVersion1(good);
    const infinite = body.slice();
    new DataView(infinite.buffer).setFloat32(infinite.length - 8, Infinity, true);
    const infiniteMemory = memory.slice();
    new DataView(infiniteMemory.buffer).setFloat32(8, Infinity, true);
    const negative = body.slice();
    new DataView(negative.buffer).setInt32(0, -1, true);
    const large = body.slice();
    new DataView(large.buffer).setInt32(0, 257, true);
    const changed = (change: object): Uint8Array => sealed({ ...header, ...change }, body);
    const changed1 = (change: object): Uint8Array => jsonSession({ ...old, ...change }, memory);
    const sampler = {
      temperature: 1,
      topK: null,
      topP: 1,
      minP: 0,
      bias: [],
      seed: 1,
      repetitionPenalty: 1,
      repetitionWindow: 64,
    };
    const hostile: Record<string, Uint8Array> = {
      nothing: new Uint8Array(0),
      "three bytes": new Uint8Array(3),
      zeros: new Uint8Array(1000),
      "a header longer than all": Uint8Array.of(255, 255, 255, 255, 1),
      "no JSON": sealed("{nonsense", body),
      null: sealed("null", body),
      "a list": sealed("[]", body),
      "a number": sealed("7", body),
      "an earlier version": sealed(header, body, 1),
      "a header past the end": sealed(header, body, 2, 0xffffffff),
      "no weights": changed({ weights: undefined }),
      "an unknown field": changed({ more: 1 }),
      "a shape that is text": changed({ state: [{ name: "memory", shape: "3,16", dtype: "float32" }] }),
      "counts that are text": changed({ current: "2" }),
      "another place": changed({ position: 3 }),
      "a place before the tokens": changed({ position: 0 }),
      "no segment before": changed({ previous: false }),
      "tokens out of range": sealed(header, large),
      "negative tokens": sealed(header, negative),
      fractions: changed({ current: 1.5 }),
      "too many tokens": changed({ current: 6, position: 12 }),
      "unfinished tokens out of range": changed({ unfinished: [257] }),
      "a temperature below 0": changed({ sampler: { ...sampler, temperature: -1 } }),
      "a bias out of range": changed({ sampler: { ...sampler, bias: [[999, 1]] } }),
      "less memory": sealed(header, body.subarray(4)),
      "more memory": sealed(header, Buffer.concat([body, body])),
      "infinite memory": sealed(header, infinite),
      "the end cut off": good.subarray(0, good.length - 1),
      "another byte": good.with(20, good[20]! ^ 1),
      "version 1, no JSON": jsonSession("{nonsense", memory),
      "version 1, no shape": changed1({ shape: undefined }),
      "version 1, a shape that is text": changed1({ shape: "1,3,16" }),
      "version 1, another format": changed1({ format: "zip" }),
      "version 1, another version": changed1({ version: 2 }),
      "version 1, tokens that are text": changed1({ current: "abc" }),
      "version 1, tokens out of range": changed1({ current: [257] }),
      "version 1, negative tokens": changed1({ current: [-1] }),
      "version 1, fractions": changed1({ current: [1.5] }),
      "version 1, too many tokens": changed1({ current: [1, 2, 3, 4, 5, 6] }),
      "version 1, a short segment": changed1({ previous: [1] }),
      "version 1, less memory": jsonSession(old, memory.subarray(4)),
      "version 1, more memory": jsonSession(old, good),
      "version 1, infinite memory": jsonSession(old, infiniteMemory),
      "version 1, the end cut off": jsonSession(old, memory.subarray(0, memory.length - 1)),
    };
    await synchronize();
    const { tensors } = memoryUsage();
    for (const [name, bytes] of Object.entries(hostile)) {
      const error = await failure(Session.restore(model, bytes));
      expect(error.code, `${name}: ${error.stack}`).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
      expect(error.message, name).to.match(/not a saved session/);
    }
    await synchronize();
    expect(memoryUsage().tensors).to.be.at.most(tensors);
  });

  it("cut or changed anywhere never does more than be refused or give another session", async () => {
    await using model = await reader();
    using session = await Session.open(model);
    await session.read(text);
    const good = await session.save(),
      random = new Random(11);
    for (let i = 0; i < 200; i++) {
      const bytes = good.slice(0, i % 3 === 0 ? random.below(good.length) : good.length);
      for (let j = 0; j < 3 && bytes.length > 0; j++) bytes[random.below(bytes.length)] = random.below(256);
      try {
        using again = await Session.restore(model, bytes);
        expect((await again.logits()).length).to.equal(257);
      } catch (error) {
        expect((error as { code?: string }).code).to.match(/^ERR_MEMFORMER_CHECKPOINT_(FORMAT|MISMATCH)$/);
      }
    }
  });
});
