/** The bytes of a saved session: what they are bound to, how large they are, and that no others are ever believed. */
import { expect } from "chai";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import {
  modelConfig,
  openTokenizer,
  presets,
  Random,
  Session,
  Tensor,
  type Memformer,
  type Tokenizer,
} from "../lib/index.ts";
import { isJsonSession } from "../lib/generate/session-format-json.ts";
import { savedBytes, unpackSession } from "../lib/generate/session-format.ts";
import { run } from "./support/children.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { temporary } from "./support/runs.ts";
import { asVersion1, jsonSession, resealed, sealed, takenApart } from "./support/sessions.ts";

const text = "Call me Ishmael. Some years ago - never mind how long precisely";

async function reader(options: Parameters<typeof tinyModel>[0] = {}): Promise<Memformer> {
  const model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32", ...options });
  await perturb(model, 0.2);
  return model;
}

async function words(session: Session, maxTokens: number, seed: number): Promise<string> {
  let all = "";
  for await (const piece of session.generate({ maxTokens, seed, temperature: 1.2 })) all += piece;
  return all;
}

describe("a saved session's bytes", function () {
  this.timeout(180_000);

  it("saved after every token, restored in a new process, go on with the same 300 tokens", async () => {
    const folder = await temporary();
    try {
      for (const precision of ["float32", "bfloat16"] as const) {
        await using model = await reader({ precision });
        await model.save(`${folder.path}/model`);
        using session = await Session.open(model);
        await session.read(text);
        const wanted: string[] = [];
        for (let i = 0; i < 8; i++) {
          await words(session, 1, i);
          const bytes = await session.save();
          await writeFile(`${folder.path}/session-${i}`, bytes);
          using copy = session.clone();
          wanted.push(await words(copy, 300, 40 + i));
        }
        const { output, code } = await run(
          `
          const [folder] = process.argv.slice(1);
          const fs = await import("node:fs/promises");
          const model = await lib.Memformer.load(folder + "/model");
          const all = [];
          for (let i = 0; i < 8; i++) {
            const session = await lib.Session.restore(model, await fs.readFile(folder + "/session-" + i));
            let words = "";
            for await (const piece of session.generate({ maxTokens: 300, seed: 40 + i, temperature: 1.2 })) words += piece;
            all.push(words);
          }
          console.log("READY", JSON.stringify(all));`,
          { args: [folder.path] },
        );
        expect(code, output).to.equal(0);
        expect(JSON.parse(output.slice(output.indexOf("READY") + 6))).to.deep.equal(wanted);
      }
    } finally {
      await folder.remove();
    }
  });

  it("are enough to go on at once: nothing that was read is computed again", async () => {
    await using model = await reader();
    using session = await Session.open(model);
    await session.read(text);
    const bytes = await session.save();
    let advances = 0,
      begins = 0;
    const advance = model.advance.bind(model),
      decoder = model.decoder.bind(model);
    model.advance = (...args) => {
      advances++;
      return advance(...args);
    };
    model.decoder = (slots) => {
      const made = decoder(slots),
        begin = made.begin.bind(made);
      made.begin = (...args) => {
        begins++;
        return begin(...args);
      };
      return made;
    };
    try {
      using restored = await Session.restore(model, bytes);
      const pending = restored.pending;
      await words(restored, 5 - pending, 1);
      expect([advances, begins]).to.deep.equal([0, 1]);
    } finally {
      for (const name of ["advance", "decoder"]) Reflect.deleteProperty(model, name);
    }
  });

  it("of an empty session are one, and bytes that are refused change nothing of a session that lives", async () => {
    await using model = await reader();
    using session = await Session.open(model);
    using restored = await Session.restore(model, await session.save());
    expect([restored.position, restored.pending]).to.deep.equal([0, 0]);
    expect(await words(restored, 9, 1)).to.equal(await words(session, 9, 1));
    const before = await session.save(),
      beside = await restored.save();
    await failure(Session.restore(model, before.subarray(0, 100)));
    await failure(Session.restore(model, new Uint8Array()));
    expect(await session.save()).to.deep.equal(before);
    expect(await restored.save()).to.deep.equal(beside);
  });

  it("hold the memory in the model's precision: wiki in 1.1 MiB", async () => {
    for (const [precision, item] of [
      ["float32", 4],
      ["bfloat16", 2],
    ] as const) {
      await using model = await reader({ precision });
      using session = await Session.open(model);
      await session.read("x".repeat(6 * 9 + 5));
      const bytes = await session.save(),
        { header, body } = takenApart(bytes);
      expect(body.length).to.equal(3 * 16 * item + 4 * 11);
      expect(session.bytes).to.equal(body.length);
      expect(JSON.stringify(header).length).to.be.below(4096);
      expect(savedBytes(model)).to.be.within(bytes.length - 4096, bytes.length);
      using restored = await Session.restore(model, bytes);
      expect(await restored.save()).to.deep.equal(bytes);
      expect([...(await restored.logits())]).to.deep.equal([...(await session.logits())]);
    }
    const config = modelConfig({ ...presets.wiki, precision: "bfloat16" });
    const shape = [config.memorySlots, config.width];
    const stateLayout = [{ name: "memory", shape, dtype: "float32", differentiable: true }] as const;
    expect(savedBytes({ config, stateLayout }) + 4096).to.be.at.most(1.1 * 2 ** 20);
  });

  it("are bound to the weights, the configuration and the tokenizer", async () => {
    await using model = await reader();
    using session = await Session.open(model);
    await session.read(text);
    const bytes = await session.save();
    // One weight by a thousandth.
    await using near = await reader();
    const { name, shape } = near.parameters.at(-1)!;
    using value = near.parameter(name);
    const numbers = Float32Array.from((await value.data()) as Float32Array);
    numbers[0]! += 1e-3;
    using changed = Tensor.from(numbers, shape);
    near.assign(name, changed);
    const refusal = await failure(Session.restore(near, bytes));
    expect(refusal.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
    expect(refusal.message).to.match(/other weights/);
    // Equal weights that another option makes mean something else; what only training knows may differ.
    for (const [options, told] of [
      [{ writerTemperature: 0.5 }, /it was saved with writerTemperature 0.25, here 0.5/],
      [{ precision: "bfloat16" }, /its state is memory float32 .*expected memory bfloat16/],
      [{ precision: "float64" }, /its state is memory float32/],
      [{ writerSteps: 2 }, /writerSteps 1, here 2/],
      [{ position: "t5" }, /position "rotary", here "t5"/],
    ] as const) {
      await using other = await reader(options);
      const error = await failure(Session.restore(other, bytes));
      expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
      expect(error.message).to.match(told);
    }
    await using dropping = await reader({ dropout: 0.1 });
    (await Session.restore(dropping, bytes)).dispose();
    const plain = await openTokenizer("bytes");
    const shifted: Tokenizer = {
      ...plain,
      encode: (part) => plain.encode(part).map((token) => token ^ 1),
      decode: (tokens) => plain.decode([...tokens].map((token) => token ^ 1)),
    };
    const other = await failure(Session.restore(model, bytes, shifted));
    expect(other.code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
    expect(other.message).to.match(/another tokenizer of the name "bytes"/);
  });

  it("of every earlier version are read, and those of a later one refused as such", async () => {
    await using model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    const fixtures = JSON.parse(readFileSync(new URL("fixtures/sessions.json", import.meta.url), "utf8")) as Record<
      string,
      string
    >;
    const blobs = Object.entries(fixtures).filter(([name]) => name !== "about");
    expect(blobs.length).to.equal(2);
    for (const [name, base64] of blobs) {
      const old = Buffer.from(base64, "base64");
      const memory = old.subarray(old.length - 3 * 16 * 4);
      const restore = Session.restore(model, old);
      if (name !== "0.1.0") restore.catch(() => undefined);
      let restored: Session;
      try {
        restored = await restore;
      } catch (error) {
        // Weights drawn on another machine may differ in their last bit: then the hash says so.
        expect((error as { message: string }).message).to.match(/other weights/);
        expect(name).to.not.equal("0.1.0");
        continue;
      }
      expect([restored.pending, restored.position]).to.deep.equal([4, 10]);
      const { body } = takenApart(await restored.save());
      expect(Buffer.from(body.subarray(4 * 10)).equals(memory), name).to.be.true;
      expect(new Int32Array(Uint8Array.from(body.subarray(0, 40)).buffer)).to.deep.equal(
        Int32Array.from(Buffer.from("e Ishmael.")),
      );
      restored.dispose();
    }
    using session = await Session.open(model);
    await session.read(text);
    const bytes = await session.save(),
      { header, body } = takenApart(bytes);
    const error = await failure(Session.restore(model, sealed(header, body, 3)));
    expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_VERSION");
    expect(error.message).to.equal("the session is of version 3; this memformer reads up to 2");
    // Readers of version 1 take the first four bytes for the header's length: it is past the end of any session.
    expect(isJsonSession(Buffer.from(bytes))).to.be.false;
    expect(new DataView(bytes.buffer).getUint32(0, true)).to.be.above(2 ** 30);
  });

  it("mutated a hundred thousand times are refused, or are a session that is sound", async () => {
    await using model = await reader();
    using session = await Session.open(model);
    await session.read(text);
    await words(session, 3, 1);
    const bytes = await session.save(),
      { header, body } = asVersion1(bytes),
      old = jsonSession(header, body);
    const random = new Random(20_261_129);
    const mutated = (from: Uint8Array): Uint8Array => {
      const cut = random.below(8) === 0 ? random.below(from.length + 1) : from.length;
      const made = Uint8Array.from(
        random.below(16) === 0 ? [...from, ...from.subarray(0, cut)] : from.subarray(0, cut),
      );
      for (let n = random.below(4); n >= 0 && made.length > 0; n--) {
        const at = random.below(random.below(2) === 0 ? Math.min(made.length, 1500) : made.length);
        if (random.below(2) === 0) made[at]! ^= 1 << random.below(8);
        else made.fill(random.below(256), at, at + 1 + random.below(8));
      }
      return made;
    };
    const { vocabulary, segmentLength } = model.config;
    const outcomes = { refused: 0, sound: 0 };
    for (let i = 0; i < 100_000; i++) {
      const kind = i % 4; // as it is; with a checksum that fits (twice); of version 1
      const from = kind === 3 ? old : bytes;
      let given = mutated(from);
      if (kind === 1 || kind === 2) given = given.length >= 32 ? resealed(given) : given;
      try {
        const { state, previous, current, position, unfinished, sampler } = unpackSession(given, model);
        if (kind === 0) expect(Buffer.from(given).equals(bytes), "a changed byte was believed").to.be.true;
        const tokens = [...(previous ?? []), ...current, ...unfinished];
        expect(tokens.every((token) => Number.isInteger(token) && token >= 0 && token < vocabulary)).to.be.true;
        expect(current.length).to.be.below(segmentLength);
        expect(previous === undefined || previous.length === segmentLength).to.be.true;
        expect(position).to.be.at.least(current.length);
        expect(state.map(({ shape, dtype, data }) => [shape, dtype, data.length])).to.deep.equal([
          [[1, 3, 16], "float32", 48],
        ]);
        expect((state[0]!.data as Float32Array).every(Number.isFinite)).to.be.true;
        expect(sampler === undefined || sampler.temperature >= 0).to.be.true;
        outcomes.sound++;
        if (i % 50 !== 1) continue;
        // Believed: it goes on like any other. Refused for what only the model knows: its weights.
        try {
          using restored = await Session.restore(model, given);
          expect((await restored.logits()).length).to.equal(vocabulary);
        } catch (error) {
          expect((error as { code?: string }).code).to.equal("ERR_MEMFORMER_CHECKPOINT_MISMATCH");
        }
      } catch (error) {
        const { code } = error as { code?: string };
        expect(code, String((error as Error).stack)).to.match(/^ERR_MEMFORMER_CHECKPOINT_(FORMAT|MISMATCH|VERSION)$/);
        outcomes.refused++;
      }
    }
    expect(outcomes.refused).to.be.above(50_000);
    expect(outcomes.sound, "some mutations are of numbers alone").to.be.above(1000);
  });
});
