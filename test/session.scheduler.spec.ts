/** Many sessions in one decoder: each makes what it makes alone, all are served, and none is lost. */
import { expect } from "chai";
import { setTimeout as wait } from "node:timers/promises";
import {
  fairPolicy,
  memoryUsage,
  Scheduler,
  Session,
  synchronize,
  Tensor,
  type GenerateOptions,
  type Memformer,
  type Piece,
  type TurnView,
} from "../lib/index.ts";
import { DocumentState } from "../lib/generate/document-state.ts";
import { architectures } from "./support/decoding.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { idsOf, script, textOf } from "./support/scripted.ts";

async function made(options: Parameters<typeof tinyModel>[0] = {}): Promise<Memformer> {
  const model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32", ...options });
  await perturb(model, 0.2);
  return model;
}

async function taken(pieces: AsyncIterable<Piece>): Promise<Piece[]> {
  const all: Piece[] = [];
  for await (const piece of pieces) all.push(piece);
  return all;
}

const prompt = (i: number): string => `${"x".repeat((i * 7) % 23)}Prompt ${i}, ${"naïve ".repeat(i % 5)}`;

/** Another way of drawing for each. */
function settings(i: number): GenerateOptions {
  return {
    maxTokens: 9 + (i % 13),
    seed: i,
    temperature: i % 6 === 0 ? 0 : 1 + (i % 3) / 2,
    ...(i % 5 === 0 && { topK: 40 }),
    ...(i % 7 === 0 && { minP: 0.02 }),
    ...(i % 8 === 0 && { repetitionPenalty: 1.3 }),
    ...(i % 9 === 0 && { logprobs: 2 }),
    ...(i % 10 === 0 && { logitBias: { 65: 2 } }),
    ...(i % 11 === 0 && { stop: "e" }),
  };
}

describe("sessions in one batch", function () {
  this.timeout(200_000);

  it("is not put to sleep by a reading that ends between a step and the look at who can go on", async () => {
    await using model = await made();
    using scheduler = new Scheduler(model, { slots: 2 });
    using session = await Session.open(model);
    let read = 0;
    const reading = (async () => {
      for (; read < 200; read++) await scheduler.read(session, prompt(read));
    })();
    const slow = new AbortController();
    await Promise.race([reading, wait(20_000, undefined, { signal: slow.signal }).catch(() => undefined)]);
    slow.abort();
    expect(read, "readings that ended").to.equal(200);
  });

  it("reads as many segments in a step as the model takes at once, and one where others draw", async () => {
    await using model = await made();
    Object.defineProperty(model, "segmentsAtOnce", { value: 3 });
    const T = model.config.segmentLength,
      text = Int32Array.from({ length: 24 * T + 2 }, (_, i) => (5 * i) % 256);
    using alone = await Session.open(model);
    await alone.read(text);
    const steps: { read: number; decoding: number }[] = [];
    using scheduler = new Scheduler(model, { slots: 2, onStep: (step) => steps.push(step) });
    using reader = await Session.open(model);
    using speaker = await Session.open(model);
    await scheduler.read(reader, text.subarray(0, 9 * T));
    expect(steps.map(({ read }) => read)).to.deep.equal([3 * T, 3 * T, 3 * T]);
    steps.length = 0;
    const speaking = taken(scheduler.add(speaker, { input: "Call", maxTokens: 40 }));
    await scheduler.read(reader, text.subarray(9 * T));
    await speaking;
    const beside = steps.filter(({ decoding }) => decoding > 0);
    expect(beside.length).to.be.above(0);
    for (const { read } of beside) expect(read).to.be.at.most(T);
    expect(Buffer.from(await reader.save())).to.deep.equal(Buffer.from(await alone.save()));
  });

  it("does not enqueue a text faster than it is read", async () => {
    await using model = await made({ width: 64, feedForward: 256, segmentLength: 32 });
    using scheduler = new Scheduler(model, { slots: 2 });
    using session = await Session.open(model);
    const began = performance.now(),
      reading = scheduler.read(session, "x".repeat(32 * 1500));
    while (session.position < 32 * 700) await wait(1);
    const half = performance.now();
    await synchronize();
    const waited = performance.now() - half;
    await reading;
    await synchronize();
    expect(waited / (performance.now() - began), "share of the reading that was enqueued at once").to.be.below(0.2);
  });

  it("that go over the ends of segments together make what each makes alone, to rounding", async () => {
    await using model = await made({ precision: "float64" });
    const asked: unknown[] = [],
      decoder = model.decoder.bind(model);
    model.decoder = (slots, options) => (asked.push(options?.deterministic), decoder(slots, options));
    const texts = async (deterministic: boolean): Promise<string[]> => {
      using scheduler = new Scheduler(model, { slots: 8, deterministic });
      const sessions = await Promise.all(Array.from({ length: 8 }, () => Session.open(model)));
      const made = sessions.map(async (session, i) => {
        const pieces = await taken(scheduler.add(session, { input: `Prompt ${i}`, maxTokens: 50, temperature: 0 }));
        return pieces.map(({ text }) => text).join("");
      });
      const all = await Promise.all(made);
      for (const session of sessions) session.dispose();
      return all;
    };
    expect(await texts(false)).to.deep.equal(await texts(true));
    expect(asked).to.deep.equal([false, true]);
  });

  for (const architecture of architectures) {
    it(`64 of them make what each makes alone, to the bit: ${architecture}`, async () => {
      await using model = await made({ architecture });
      using scheduler = new Scheduler(model, { slots: 64, drive: false });
      const sessions: Session[] = [],
        alone: { pieces: Piece[]; logits: number[]; saved: Uint8Array }[] = [];
      for (let i = 0; i < 64; i++) {
        using one = await Session.open(model);
        await one.read(prompt(i));
        const pieces = await taken(one.generatePieces(settings(i)));
        alone.push({ pieces, logits: [...(await one.logits())], saved: await one.save() });
        sessions.push(await Session.open(model));
        if (i % 4 !== 0) await sessions[i]!.read(prompt(i));
      }
      const turns = sessions.map(async (session, i) =>
        taken(scheduler.add(session, { ...settings(i), input: i % 4 === 0 ? prompt(i) : undefined })),
      );
      let widest = 0;
      for (let done = false; !done;) {
        const { generated, active } = await scheduler.step();
        widest = Math.max(widest, generated);
        done = active === 0;
        await wait(0);
      }
      expect(widest, "a step of many").to.be.at.least(48);
      for (const [i, pieces] of (await Promise.all(turns)).entries()) {
        expect(idsOf(pieces), `session ${i}`).to.deep.equal(idsOf(alone[i]!.pieces));
        expect(textOf(pieces)).to.equal(textOf(alone[i]!.pieces));
        expect(pieces.at(-1)!.finish).to.equal(alone[i]!.pieces.at(-1)!.finish);
        expect(pieces.flatMap(({ tokens }) => tokens)).to.deep.equal(alone[i]!.pieces.flatMap(({ tokens }) => tokens));
        expect(await sessions[i]!.save()).to.deep.equal(alone[i]!.saved);
        expect([...(await sessions[i]!.logits())]).to.deep.equal(alone[i]!.logits);
        sessions[i]!.dispose();
      }
    });
  }

  it("join and leave between steps, more of them than slots, in any precision", async () => {
    for (const precision of ["float32", "bfloat16", "float64"] as const) {
      await using model = await made({ precision });
      using scheduler = new Scheduler(model, { slots: 3, budgetBytes: 5 * 1000 });
      const work = Array.from({ length: 20 }, async (_, i) => {
        using session = await Session.open(model);
        await wait(i % 4);
        if (i % 2 === 0) await session.read(prompt(i));
        else await scheduler.read(session, prompt(i));
        let words = "";
        for (let turn = 0; turn < 3; turn++) {
          for await (const text of scheduler.generate(session, { ...settings(i), maxTokens: 7 })) words += text;
          if (turn === 1) await session.read("!"); // between turns it is an ordinary session
        }
        return { words, saved: await session.save() };
      });
      for (const [i, { words, saved }] of (await Promise.all(work)).entries()) {
        using session = await Session.open(model);
        await session.read(prompt(i));
        let wanted = "";
        for (let turn = 0; turn < 3; turn++) {
          for await (const text of session.generate({ ...settings(i), maxTokens: 7 })) wanted += text;
          if (turn === 1) await session.read("!");
        }
        expect(words, `session ${i}`).to.equal(wanted);
        expect(await session.save()).to.deep.equal(saved);
      }
      expect(scheduler.report).to.deep.include({ active: 0, waiting: 0 });
    }
  });

  it("notice that the weights have changed", async () => {
    await using model = await made();
    using scheduler = new Scheduler(model, { slots: 4, drive: false });
    using session = await Session.open(model);
    const turn = scheduler.add(session, { input: "Call me", maxTokens: 12, temperature: 0 }),
      pieces = taken(turn);
    for (let i = 0; i < 6; i++) {
      await scheduler.step();
      await wait(0);
    }
    using alone = await Session.open(model);
    await alone.read("Call me");
    const before = session.position - 7;
    await taken(alone.generatePieces({ maxTokens: before, temperature: 0 }));
    await perturb(model, 0.3, 9);
    while ((await scheduler.step()).active > 0) await wait(0);
    const wanted = await taken(alone.generatePieces({ maxTokens: 12 - before, temperature: 0 }));
    expect(idsOf(await pieces).slice(before)).to.deep.equal(idsOf(wanted));
  });

  it("reads a text and draws nothing, also of a session that was restored: its reader does not wait for ever", async () => {
    await using model = await made();
    using opened = await Session.open(model);
    const saved = await opened.save();
    for (const text of ["abc", "abcdef", "x".repeat(100)]) {
      using scheduler = new Scheduler(model);
      using session = await Session.restore(model, saved);
      const late = wait(5000, "late", { ref: false });
      expect(await Promise.race([scheduler.read(session, text).then(() => session.position), late])).to.equal(
        text.length,
      );
    }
  });
});

describe("a scheduled turn", function () {
  this.timeout(100_000);
  let model: Memformer;
  before(async () => {
    model = await made();
  });
  after(async () => model.dispose());

  it("leaves what was handed out when it is finished, left, aborted, or fails; or nothing", async () => {
    const said = [..."ab\nUser! and on, and on"].map((letter) => letter.charCodeAt(0));
    // After "ab", "\nUser" is drawn and held back; after nine tokens pieces are made ahead.
    for (const onAbort of ["commit", "discard"] as const)
      for (const how of ["finish", "leave", "abort", "fail"])
        for (const point of [2, 9]) {
          using scheduler = new Scheduler(model, { slots: 2, maxAhead: 3 });
          using session = await Session.open(model),
            wanted = await Session.open(model);
          const controller = new AbortController(),
            start = 7,
            speak = script(said, start);
          const turn = scheduler.add(session, {
            input: "Call me",
            maxTokens: 50,
            onAbort,
            stop: "\nUser:",
            signal: controller.signal,
            logitsProcessor: async (logits, where) => {
              if (how === "fail" && where.position === start + point + 3) throw new Error("own");
              return speak(logits, where);
            },
          });
          const out: number[] = [];
          const work = (async () => {
            for await (const piece of turn) {
              out.push(...idsOf([piece]));
              if (out.length < point || how === "fail") continue;
              await wait(10);
              if (how === "leave") break;
              if (how === "finish") scheduler.finish(turn);
              if (how === "abort") controller.abort(new Error("own"));
            }
          })();
          if (how === "abort" || how === "fail") expect((await failure(work)).message).to.equal("own");
          else await work;
          expect(turn.over).to.be.true;
          expect(out.length, how).to.be.within(point, point + 3);
          const kept = [...Buffer.from("Call me"), ...out];
          await wanted.read(onAbort === "commit" ? kept : []);
          expect(session.position, `${onAbort}, ${how}, ${point}`).to.equal(wanted.position);
          expect([...(await session.logits())]).to.deep.equal([...(await wanted.logits())]);
          expect(scheduler.report.active).to.equal(0);
        }
  });

  it("that a policy's failure ends, ends with it", async () => {
    class Own extends Error {}
    const policy = {
      ...fairPolicy(),
      decode: () => {
        throw new Own();
      },
    };
    using scheduler = new Scheduler(model, { policy });
    using session = await Session.open(model);
    expect(await failure(taken(scheduler.add(session, { input: "ab", maxTokens: 3 })))).to.be.instanceOf(Own);
    await session.read("and it is free");
  });

  it("is one of its session's; a session that is disposed of ends it, and so does the scheduler", async () => {
    const scheduler = new Scheduler(model, { slots: 2, drive: false });
    using session = await Session.open(model),
      other = await Session.open(model);
    const turn = scheduler.add(session, { maxTokens: 5, seed: 3 });
    for (const call of [async () => session.read("x"), async () => scheduler.read(session, "x")])
      expect((await failure(call())).code).to.equal("ERR_MEMFORMER_BUSY");
    const gone = await Session.open(model),
      lost = taken(scheduler.add(gone, { maxTokens: 5, seed: 3 }));
    gone.dispose();
    const error = failure(lost);
    await scheduler.step();
    expect((await error).code).to.equal("ERR_MEMFORMER_DISPOSED");
    await using stranger = await made({ seed: 4 });
    using foreign = await Session.open(stranger);
    expect(() => scheduler.add(foreign))
      .to.throw(/of another model/)
      .with.property("code", "ERR_MEMFORMER_CONFIG");
    expect(() => scheduler.add(other, { maxTokens: -1 })).to.throw(/maxTokens/);
    expect(() => new Scheduler(model, { slot: 3 } as never)).to.throw(/did you mean "slots"\?/);
    expect(() => new Scheduler(model, { budgetBytes: 10 })).to.throw(/budgetBytes must hold one session of/);
    const ended = failure(taken(turn));
    scheduler.dispose();
    scheduler.dispose();
    expect((await ended).code).to.equal("ERR_MEMFORMER_DISPOSED");
    await session.read("and it is free");
    expect((await failure(scheduler.step())).code).to.equal("ERR_MEMFORMER_DISPOSED");
    await using encoder = await tinyModel({ architecture: "encoder" });
    expect(() => new Scheduler(encoder)).to.throw(/no next token/);
  });

  it("reads all of its input or nothing, and from a slow one as it arrives", async () => {
    using scheduler = new Scheduler(model);
    using session = await Session.open(model),
      wanted = await Session.open(model);
    const slow = async function* (): AsyncGenerator<string> {
      for (const part of ["Call", " me ", "Ishmael."]) {
        await wait(5);
        yield part;
      }
    };
    await scheduler.read(session, slow());
    await wanted.read("Call me Ishmael.");
    expect(await session.save()).to.deep.equal(await wanted.save());
    const broken = async function* (): AsyncGenerator<string | number[]> {
      yield "more and more";
      yield [1, 2, 999];
    };
    expect((await failure(scheduler.read(session, broken()))).message).to.match(/token 999 at position 15 is outside/);
    expect(await session.save()).to.deep.equal(await wanted.save());
  });

  it("pauses while nobody takes its pieces, and holds back nobody else", async () => {
    using scheduler = new Scheduler(model, { slots: 1, maxAhead: 4 });
    using slow = await Session.open(model),
      quick = await Session.open(model);
    const turn = scheduler.add(slow, { maxTokens: 40, logitsProcessor: script([65], 0) });
    const pieces = turn[Symbol.asyncIterator]();
    await pieces.next();
    await wait(20);
    expect(textOf(await taken(scheduler.add(quick, { maxTokens: 30, logitsProcessor: script([66], 0) })))).to.equal(
      "B".repeat(30),
    );
    expect(slow.position).to.be.within(1, 6);
    let text = "A";
    for (let next = await pieces.next(); !next.done; next = await pieces.next()) text += next.value.text;
    expect(text).to.equal("A".repeat(40));
  });
});

describe("a scheduler", function () {
  this.timeout(200_000);
  let model: Memformer;
  before(async () => {
    model = await made();
  });
  after(async () => model.dispose());

  it("keeps memories within its budget: idle sessions move to host memory and back, unnoticed", async () => {
    const each = 3 * 16 * 4 + 4 * 12;
    using scheduler = new Scheduler(model, { slots: 4, budgetBytes: 6 * each, idleAfter: 1 });
    const sessions = await Promise.all(Array.from({ length: 24 }, async () => Session.open(model))),
      words = sessions.map(() => "");
    let most = 0;
    for (let round = 0; round < 4; round++) {
      await Promise.all(
        sessions.map(async (session, i) => {
          const turn = scheduler.add(session, { input: `round ${round}: ${i}`, seed: i, maxTokens: 5 });
          for await (const { text } of turn) {
            words[i]! += text;
            most = Math.max(most, scheduler.report.bytes);
          }
          if (i % 3 === 0) await session.save(); // in use while it may be on its way out
        }),
      );
      await wait(4);
    }
    expect(most).to.be.at.most(6 * each);
    expect(scheduler.report.moves).to.be.above(20);
    expect(scheduler.report.bytes).to.equal(0);
    for (const [i, session] of sessions.entries()) {
      using alone = await Session.open(model);
      let wanted = "";
      for (let round = 0; round < 4; round++) {
        await alone.read(`round ${round}: ${i}`);
        for await (const text of alone.generate({ seed: i, maxTokens: 5 })) wanted += text;
      }
      expect(words[i]).to.equal(wanted);
      expect(await session.save()).to.deep.equal(await alone.save());
      session.dispose();
    }
  });

  it("leaves a memory alone that goes on while it is on its way out", async () => {
    using document = new DocumentState(model);
    const next = (value: number): Tensor => Tensor.from(new Float32Array(48).fill(value), [1, 3, 16]);
    const fill = (value: number): void => {
      for (let i = 0; i < 6; i++) document.push(i);
      document.commit();
      document.advance([next(value)]);
    };
    fill(1);
    const moving = document.offload();
    fill(2);
    await moving;
    expect(document.resident).to.be.true;
    expect([...(await document.read())[0]!.data]).to.deep.equal(new Array(48).fill(2));
    await document.offload();
    expect(document.resident).to.be.false;
    using copy = document.clone(); // brings it back
    expect([...(await copy.read())[0]!.data]).to.deep.equal(new Array(48).fill(2));
    const leaving = document.offload();
    document[Symbol.dispose]();
    await leaving;
    expect(document.resident).to.be.true; // nothing was put in the place of what is gone
  });

  it("refuses a turn when too many wait, and serves all that it took", async () => {
    const each = 3 * 16 * 4 + 4 * 12;
    using scheduler = new Scheduler(model, { slots: 2, budgetBytes: 2 * each, maxWaiting: 5 });
    const sessions = await Promise.all(Array.from({ length: 12 }, async () => Session.open(model)));
    const outcomes = await Promise.allSettled(
      sessions.map(async (session) =>
        taken(scheduler.add(session, { maxTokens: 6, logitsProcessor: script([65], 0) })),
      ),
    );
    const refused = outcomes.filter(({ status }) => status === "rejected") as PromiseRejectedResult[];
    expect(refused.length).to.equal(5);
    for (const { reason } of refused) {
      expect((reason as { code: string }).code).to.equal("ERR_MEMFORMER_BUSY");
      expect((reason as Error).message).to.equal("the scheduler has 5 turns waiting, as many as it takes");
    }
    for (const outcome of outcomes)
      if (outcome.status === "fulfilled") expect(textOf(outcome.value)).to.equal("AAAAAA");
    // What was refused is free, and may come again.
    for (const [i, session] of sessions.entries()) {
      if (outcomes[i]!.status === "rejected")
        expect((await taken(scheduler.add(session, { maxTokens: 1 }))).length).to.be.above(0);
      session.dispose();
    }
  });

  it("reads beside decoding, so that neither starves", async () => {
    using scheduler = new Scheduler(model, { slots: 2, drive: false });
    using reader = await Session.open(model),
      second = await Session.open(model),
      writer = await Session.open(model);
    void taken(scheduler.add(reader, { input: "y".repeat(6 * 40), maxTokens: 0 }));
    void taken(scheduler.add(second, { input: "z".repeat(6 * 4), maxTokens: 0 }));
    const text = taken(scheduler.add(writer, { maxTokens: 30, logitsProcessor: script([65], 0) }));
    await wait(0);
    const reports = [];
    for (let i = 0; i < 30; i++) {
      reports.push(await scheduler.step());
      await wait(0);
    }
    expect(textOf(await text)).to.equal("A".repeat(30));
    expect(reports.filter(({ generated }) => generated === 1).length).to.equal(30);
    expect(reports.slice(2).every(({ read }) => read > 0 && read <= 6)).to.be.true;
    expect(second.position, "a short one does not wait for a long one").to.equal(24);
    expect(reader.position).to.be.above(100);
    for (let i = 0; i < 20; i++) {
      await scheduler.step(); // nothing decodes: several segments a step
      await wait(0);
    }
    expect(reader.position).to.equal(240);
  });

  it("serves 10,000 sessions one after another in one place, half of them disposed of midway, and nothing stays", async () => {
    using scheduler = new Scheduler(model, { slots: 1, budgetBytes: 3 * 16 * 4 + 4 * 12 });
    await synchronize();
    let before = 0;
    for (let i = 0; i < 10_000; i++) {
      using session = await Session.open(model);
      if (i === 100) before = (await synchronize(), memoryUsage().hostBytes);
      const maxTokens = i % 2 === 0 ? 2 : 1000,
        turn = scheduler.add(session, { input: "ab", maxTokens, logitsProcessor: script([65], 2) });
      if (i % 2 === 0) expect(textOf(await taken(turn))).to.equal("AA");
      else expect((await turn[Symbol.asyncIterator]().next()).value?.text).to.equal("A");
    }
    await synchronize();
    expect(memoryUsage().hostBytes).to.be.at.most(before + 4096);
    expect(scheduler.report).to.deep.include({ active: 0, waiting: 0, bytes: 0 });
  });
});

describe("a fair policy", () => {
  const view = (key: unknown, arrival: number, inSegment = false): TurnView => ({ key, arrival, inSegment });

  it("serves keys alike, however many turns one has", () => {
    const policy = fairPolicy(),
      counts = { many: 0, one: 0 };
    const turns = [...Array.from({ length: 9 }, (_, i) => view("many", i)), view("one", 9)];
    for (let step = 0; step < 100; step++) {
      for (const chosen of policy.decode(turns, 1)) {
        counts[chosen.key as "many" | "one"] += 1;
        policy.charge(chosen, 1, "generated");
      }
    }
    expect(counts).to.deep.equal({ many: 50, one: 50 });
  });

  it("lets a turn end its segment before another takes its slot, and no newcomer wait for what came before it", () => {
    const policy = fairPolicy(),
      [a, b, c] = [view("a", 0), view("b", 1), view("c", 2)];
    for (let step = 0; step < 10; step++) policy.charge(a, 100, "generated");
    policy.charge(b, 900, "generated"); // it starts where a stands
    const inside = { ...b, inSegment: true };
    expect(policy.decode([a, inside, c], 1)).to.deep.equal([inside]);
    expect(policy.decode([a, inside, c], 2)).to.deep.equal([inside, a]);
    policy.charge(c, 50, "generated");
    expect(policy.decode([b, c, a], 2)).to.deep.equal([a, c]);
    expect(policy.admit([c, b, a])).to.deep.equal([a, c, b]);
    expect(policy.read([b, c, a], true)).to.deep.equal([a]);
    expect(policy.read([b, c, a], false)).to.deep.equal([a, c, b, a, c, b, a, c]);
    expect(policy.read([], false)).to.deep.equal([]);
    const endless = fairPolicy({ readsAlone: Infinity, readsBesideDecoding: Infinity });
    for (const decoding of [true, false]) expect(endless.read([a, b], decoding)).to.include.members([a, b]);
    policy.charge(c, 8 * 200, "read");
    policy.charge(a, 1000, "generated");
    policy.leave(b, [a, c]);
    expect(policy.decode([a, c, view("d", 3)], 2).map(({ key }) => key)).to.deep.equal(["c", "d"]);
  });
});

describe("a scheduler with a budget", () => {
  it("lets go of sessions that were disposed of after their turns", async () => {
    await using model = await made();
    using scheduler = new Scheduler(model, { budgetBytes: 1e9 });
    const gone: WeakRef<DocumentState>[] = [];
    for (let i = 0; i < 20; i++) {
      const session = await Session.open(model);
      const turn = scheduler.add(session, { input: "Call", maxTokens: 1 });
      gone.push(new WeakRef(turn.document));
      await taken(turn);
      session.dispose();
    }
    await memoryAtRest();
    expect(gone.filter((each) => each.deref() !== undefined).length, "kept").to.be.below(5);
  });
});
