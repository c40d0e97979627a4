/** What a turn leaves in a session: broken off, aborted, failed, cloned, reset, disposed of, or asked for twice. */
import { expect } from "chai";
import { createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import {
  applyOperator,
  memoryUsage,
  openTokenizer,
  Session,
  synchronize,
  type Memformer,
  type ReadInput,
  type State,
  type Tokenizer,
} from "../lib/index.ts";
import { run } from "./support/children.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { temporary } from "./support/runs.ts";
import { idsOf, says, script, textOf } from "./support/scripted.ts";

const kept = 1024; // calls whose stacks are remembered, with what their frames hold

/** Handles are counted until they have been collected. */
async function atRest(): Promise<void> {
  globalThis.gc?.();
  await turn();
  await synchronize();
}

const bytes = (text: string): number[] => [...Buffer.from(text)];

describe("a turn", function () {
  this.timeout(120_000);
  let model: Memformer;
  before(async () => {
    model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    await perturb(model, 0.2);
  });
  after(async () => model.dispose());

  async function same(session: Session, tokens: readonly number[]): Promise<void> {
    using wanted = await Session.open(model);
    await wanted.read(tokens);
    expect([session.position, session.pending]).to.deep.equal([wanted.position, wanted.pending]);
    expect([...(await session.logits())]).to.deep.equal([...(await wanted.logits())]);
  }

  it("that is left has committed exactly the tokens that were handed out, across segments too", async () => {
    // Held back: "\nUser" after each word, over one, two or three segments of 6.
    const stop = "\nUser says: x",
      said = `ab${stop.slice(0, 12)}cd${stop.slice(0, 3)}ef`;
    for (let pieces = 1; pieces <= 6; pieces++) {
      for (const onAbort of ["commit", "discard"] as const) {
        using session = await Session.open(model);
        await session.read("Call");
        const out: number[] = [];
        let seen = 0;
        const options = { maxTokens: 60, stop, onAbort, logitsProcessor: script(bytes(said), 4) };
        for await (const piece of session.generatePieces(options)) {
          out.push(...idsOf([piece]));
          if (++seen === pieces) break;
        }
        await same(session, [...bytes("Call"), ...(onAbort === "commit" ? out : [])]);
        const next = await says(session, "go on");
        expect(textOf(next)).to.equal("go on");
      }
    }
  });

  it("that is aborted while tokens are held back, or between tokens, commits no more than was handed out", async () => {
    for (const onAbort of ["commit", "discard"] as const) {
      using session = await Session.open(model);
      await session.read("Call me");
      const controller = new AbortController(),
        tokens = bytes("ab\nUser! and more");
      class Enough extends Error {}
      const out: number[] = [];
      const work = async (): Promise<void> => {
        const logitsProcessor: typeof play = (logits, where) => {
          if (where.position === 12) controller.abort(new Enough()); // "\nU" is drawn and held
          return play(logits, where);
        };
        const play = script(tokens, 7);
        const options = { stop: "\nUser:", signal: controller.signal, onAbort, logitsProcessor };
        for await (const piece of session.generatePieces(options)) out.push(...idsOf([piece]));
      };
      expect(await failure(work())).to.be.instanceOf(Enough);
      expect(out).to.deep.equal(bytes("ab"));
      await same(session, [...bytes("Call me"), ...(onAbort === "commit" ? bytes("ab") : [])]);
    }
  });

  it("with a signal that has aborted before leaves the session's bytes as they were", async () => {
    using session = await Session.open(model);
    await session.read("Call me Ishmael");
    await says(session, "ok");
    const before = await session.save(),
      signal = AbortSignal.abort(new Error("gone"));
    for (const work of [
      async () => session.generate({ signal }).next(),
      async () => session.read("text", { signal }),
      async () => session.read([1, 2, 3, 999]),
      async () => session.read({} as never),
      async () => session.read(undefined as never),
      async () => session.read(7 as never),
      async () => session.read([["a"]] as never),
      async () => session.read("a", { signals: signal } as never),
      async () => session.generate({ maxTokens: -1 }).next(),
    ]) {
      await failure(work());
      expect(Buffer.from(await session.save()).equals(Buffer.from(before)), work.toString()).to.be.true;
    }
  });

  it("is one at a time: another call of the same session is refused, another session's is not", async () => {
    using one = await Session.open(model),
      two = await Session.open(model);
    await one.read("one");
    await two.read("two");
    const wanted = [await text(one.clone()), await text(two.clone())];
    const first = one.generate({ maxTokens: 20, seed: 3 }),
      second = two.generate({ maxTokens: 20, seed: 3 });
    const words = ["", ""];
    for (let done = 0; done < 2;) {
      done = 0;
      for (const [i, pieces] of [first, second].entries()) {
        const { value, done: over } = await pieces.next();
        if (over) done++;
        else words[i] += value;
        if (i === 0 && !over) {
          expect((await failure(one.read("x"))).code).to.equal("ERR_MEMFORMER_BUSY");
          expect(() => one.clone())
            .to.throw(/clone\(\) came while/)
            .with.property("code", "ERR_MEMFORMER_BUSY");
          expect(() => one.reset()).to.throw(/reset\(\) came while/);
        }
      }
    }
    expect(words).to.deep.equal(wanted);
  });

  async function text(session: Session, maxTokens = 20, seed = 3): Promise<string> {
    let words = "";
    for await (const piece of session.generate({ maxTokens, seed })) words += piece;
    session.dispose();
    return words;
  }

  it("that is aborted or disposed of anywhere leaves no rejection that nobody handles", async () => {
    const { output, code } = await run(
      `
      const model = await lib.Memformer.create({ preset: "tiny", device: "cpu", threads: 1 });
      const scheduler = new lib.Scheduler(model, { slots: 2, budgetBytes: 20_000, idleAfter: 1 });
      const { setTimeout: wait } = await import("node:timers/promises");
      async function* slow() { for (;;) { yield "some text to read"; await wait(1); } }
      let failed = 0;
      const swallow = async (work) => { try { await work; } catch { failed++; } };
      const consume = async (pieces) => { for await (const piece of pieces) void piece; };
      for (let round = 0; round < 30; round++) {
        const sessions = await Promise.all(Array.from({ length: 6 }, () => model.session()));
        const controllers = sessions.map(() => new AbortController());
        const work = sessions.map((session, i) => {
          const { signal } = controllers[i], options = { signal, maxTokens: 1000, seed: i, stop: "the" };
          return swallow([
            () => consume(session.generate(options)),
            () => session.read(slow(), { signal }),
            () => consume(scheduler.generate(session, options)),
            () => scheduler.read(session, slow(), { signal }),
            () => consume(scheduler.add(session, { ...options, input: slow() })),
            () => session.save(),
          ][i]());
        });
        await wait(round % 7);
        controllers.forEach((controller, i) => (round + i) % 2 === 0 && controller.abort());
        sessions.forEach((session) => session.dispose());
        await Promise.all(work);
      }
      scheduler.add(await model.session(), { maxTokens: 1000 }); // nobody takes its pieces
      scheduler.dispose();
      await model.dispose();
      console.log("READY", failed);`,
      { flags: ["--unhandled-rejections=strict"] },
    );
    expect(code, output).to.equal(0);
    expect(Number(/READY (\d+)/.exec(output)![1])).to.be.above(100);
  });

  it("of a clone leaves the other as it was, and a reset is a new document", async () => {
    using session = await Session.open(model);
    await session.read("Call me Ishmael.");
    const before = await session.save(),
      { position, bytes: held } = session;
    using copy = session.clone();
    expect(copy.position).to.equal(position);
    expect(await copy.save()).to.deep.equal(before);
    await copy.read(" Some years ago");
    copy.dispose();
    expect(await session.save()).to.deep.equal(before);
    session.reset();
    expect([session.position, session.pending]).to.deep.equal([0, 0]);
    using fresh = await Session.open(model);
    expect(await session.save()).to.deep.equal(await fresh.save());
    expect(fresh.bytes).to.equal(3 * 16 * 4);
    expect(held).to.equal(3 * 16 * 4 + 4 * (6 + 4));
  });

  it("under which the session is disposed of ends with a clear error, and frees all", async () => {
    await atRest();
    const { hostBytes } = memoryUsage();
    for (let round = 0; round < 20; round++) {
      const session = await Session.open(model);
      await session.read("Call me Ishmael");
      const generating = session.generate({ maxTokens: 50, seed: round, temperature: 2 }),
        words = [(await generating.next()).value];
      const next = round % 2 === 0 ? generating.next() : undefined;
      session.dispose();
      session.dispose();
      const error = await failure(
        (async () => {
          if (next !== undefined) words.push((await next).value);
          for await (const piece of generating) words.push(piece);
        })(),
      );
      expect(error.code).to.equal("ERR_MEMFORMER_DISPOSED");
      for (const call of [async () => session.read("x"), async () => session.save(), async () => session.logits()])
        expect((await failure(call())).code).to.equal("ERR_MEMFORMER_DISPOSED");
      const saved = await Session.open(model),
        saving = saved.save();
      saved.dispose();
      expect((await saving.catch((failed: { code: string }) => failed.code)).length).to.be.above(0);
    }
    await atRest();
    expect(memoryUsage().hostBytes).to.be.at.most(hostBytes);
  });

  it("costs nothing that stays: 2,000 sessions one after another", async () => {
    await text(await Session.open(model), 8);
    await atRest();
    const { tensors, hostBytes } = memoryUsage();
    for (let i = 0; i < 2000; i++) {
      using session = await Session.open(model);
      await session.read("some text");
      if (i % 100 === 0) await text(session.clone(), 8);
    }
    await atRest();
    expect(memoryUsage().tensors, "one handle a session").to.be.at.most(tensors + kept);
    expect(memoryUsage().hostBytes).to.be.at.most(hostBytes);
  });
});

describe("reading", function () {
  this.timeout(120_000);
  let model: Memformer;
  before(async () => {
    model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32", segmentLength: 32 });
  });
  after(async () => model.dispose());

  async function* parts<T>(...all: T[]): AsyncGenerator<T> {
    yield* all;
  }

  it("takes text, tokens, and iterables of both, whose borders do not show", async () => {
    const whole = "A naïve 🐋 swam on; the ship went 3 miles, über alle.\n";
    const raw = Buffer.from(whole);
    const inputs: ReadInput[] = [
      bytes(whole),
      raw,
      parts(whole.slice(0, 9), whole.slice(9)),
      parts(...Array.from(raw, (_, i) => raw.subarray(i, i + 1))), // a stream of bytes, each character cut
      parts<string | number[]>("A na", bytes("ïve"), " 🐋 swam on", bytes("; the ship went 3 miles, über alle.\n")),
      parts(...whole.split("")), // surrogates apart
      [whole.slice(0, 20), whole.slice(20)],
      parts(),
    ];
    using wanted = await Session.open(model);
    await wanted.read(whole);
    for (const [i, input] of inputs.entries()) {
      using session = await Session.open(model);
      await session.read(input);
      if (i === inputs.length - 1) await session.read(whole);
      expect(await session.save(), `input ${i}`).to.deep.equal(await wanted.save());
    }
  });

  it("cuts a text where its tokenizer says: the parts of a stream have the tokens of the whole", async () => {
    const gpt2 = await openTokenizer("gpt2"),
      text = Array.from({ length: 40_000 }, (_, i) => `word${i % 97} über it's`).join(" ");
    await using large = await tinyModel({ vocabulary: 50_257, bos: 50_256, precision: "float32", segmentLength: 128 });
    const seen: number[] = [];
    const spy: Tokenizer = {
      ...gpt2,
      *encodeParts(part, options) {
        for (const tokens of gpt2.encodeParts!(part, options)) {
          seen.push(...tokens);
          yield tokens;
        }
      },
    };
    using session = await Session.open(large, spy);
    const size = 1009;
    await session.read(
      parts(...Array.from({ length: Math.ceil(text.length / size) }, (_, i) => text.slice(i * size, (i + 1) * size))),
    );
    expect(seen.length).to.equal(session.position);
    expect(Buffer.from(Int32Array.from(seen).buffer).equals(Buffer.from(gpt2.encode(text).slice().buffer))).to.be.true;
  });

  it("reads a file of any length in constant space, as it arrives", async () => {
    const folder = await temporary();
    try {
      const file = join(folder.path, "long.txt");
      await writeFile(file, "All this happened, more or less. 🐋\n".repeat(6_000));
      using session = await Session.open(model);
      await session.read("warm up ".repeat(2000));
      await synchronize();
      const { hostBytes, tensors } = memoryUsage();
      await session.read(createReadStream(file));
      expect(session.position).to.equal(16_000 + 38 * 6_000);
      await atRest();
      expect(memoryUsage().hostBytes).to.be.at.most(hostBytes + 1024);
      expect(memoryUsage().tensors).to.be.at.most(tensors + kept);
    } finally {
      await folder.remove();
    }
  });

  it("rejects with what a segment failed with while later ones were under way, and leaves the session whole", async () => {
    await using fragile = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32", segmentLength: 8 });
    const real = fragile.advance.bind(fragile),
      text = Int32Array.from({ length: 500 * 8 }, (_, i) => (7 * i) % 256);
    let calls = 0,
      failsAt = 0;
    Object.defineProperty(fragile, "advance", {
      value: (...given: Parameters<typeof real>): State => {
        const next = real(...given);
        if (++calls !== failsAt) return next;
        return next.map((tensor) => {
          const failed = applyOperator("aten::mm", tensor, tensor); // three axes
          tensor.dispose();
          return failed;
        });
      },
    });
    using session = await Session.open(fragile);
    await session.read(text.subarray(0, 8));
    const before = await session.save();
    for (const at of [1, 100, 128, 129, 300, 499]) {
      [calls, failsAt] = [0, at];
      expect(await failure(session.read(text.subarray(8))), `at ${at}`)
        .to.have.property("message")
        .that.matches(/must be a matrix/);
      expect(await session.save(), `after ${at}`).to.deep.equal(before);
    }
    failsAt = 0;
    await session.read(text.subarray(8));
    expect(session.position).to.equal(text.length);
  });

  it("is aborted, or disposed of, also while it waits for its input", async () => {
    for (const how of ["abort", "dispose"]) {
      using session = await Session.open(model);
      await session.read("Call me");
      const controller = new AbortController();
      class Own extends Error {}
      const forever = (async function* () {
        yield "y".repeat(10_000);
        await new Promise(() => undefined);
      })();
      const work = failure(session.read(forever, { signal: controller.signal }));
      await turn();
      if (how === "abort") controller.abort(new Own());
      else session.dispose();
      const error = await work;
      if (how === "dispose") expect(error.code).to.equal("ERR_MEMFORMER_DISPOSED");
      else {
        expect(error).to.be.instanceOf(Own);
        expect(session.position).to.equal(7);
        await session.read("and on");
      }
    }
  });

  it("takes all in or nothing; with onAbort commit, what came before", async () => {
    const long = "x".repeat(32 * 700);
    class Broken extends Error {}
    async function* broken(): AsyncGenerator<string | number[]> {
      yield long;
      yield bytes(long);
      throw new Broken();
    }
    for (const onAbort of ["discard", "commit"] as const) {
      using session = await Session.open(model);
      await session.read("Call me");
      const before = await session.save();
      expect(await failure(session.read(broken(), { onAbort }))).to.be.instanceOf(Broken);
      if (onAbort === "discard") expect(await session.save()).to.deep.equal(before);
      expect(session.position).to.equal(onAbort === "discard" ? 7 : 7 + 2 * long.length);
      const error = await failure(session.read(parts<string | number[]>("ab", [1, 999]), { onAbort }));
      expect(error.message).to.match(/token 999 at position 3 is outside/);
      const controller = new AbortController();
      async function* endless(): AsyncGenerator<string> {
        for (let i = 0; ; i++) {
          if (i === 3) controller.abort(new Broken());
          yield "y".repeat(1000);
        }
      }
      const start = session.position;
      expect(await failure(session.read(endless(), { onAbort, signal: controller.signal }))).to.be.instanceOf(Broken);
      if (onAbort === "discard") expect(session.position).to.equal(start);
    }
  });
});
