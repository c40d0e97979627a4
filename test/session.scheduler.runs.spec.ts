/** A scheduler that draws in runs: nothing shows but the time it takes. */
import { expect } from "chai";
import { setTimeout as wait } from "node:timers/promises";
import {
  applyOperator,
  fairPolicy,
  Scheduler,
  Session,
  Tensor,
  type GenerateOptions,
  type Memformer,
  type Piece,
  type SchedulerReport,
  type SchedulerPolicy,
} from "../lib/index.ts";
import { architectures } from "./support/decoding.ts";
import { failure } from "./support/failure.ts";
import { neverEnds, perturb, tinyModel } from "./support/models.ts";
import { idsOf, script, textOf } from "./support/scripted.ts";

async function made(options: Parameters<typeof tinyModel>[0] = {}): Promise<Memformer> {
  const model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32", segmentLength: 32, ...options });
  await perturb(model, 0.2);
  return model;
}

/** Takes all pieces, or as many as hold `most` tokens. */
async function taken(pieces: AsyncIterable<Piece>, most = Infinity): Promise<Piece[]> {
  const all: Piece[] = [];
  for await (const piece of pieces) {
    all.push(piece);
    if (idsOf(all).length >= most) break;
  }
  return all;
}

/** Steps until nothing is left to do; `between`: after each. */
async function drive(
  scheduler: Scheduler,
  between?: (step: number) => void | Promise<void>,
): Promise<SchedulerReport[]> {
  const reports: SchedulerReport[] = [];
  do {
    reports.push(await scheduler.step());
    await wait(0);
    await between?.(reports.length);
  } while (reports.at(-1)!.active + reports.at(-1)!.waiting > 0);
  return reports;
}

/** How turns of one batch may draw, each its own way. */
const ways: readonly GenerateOptions[] = [
  {},
  { topK: 5 },
  { topP: 0.8 },
  { minP: 0.2 },
  { temperature: 0 },
  { logitBias: { 65: 4, 66: 4, 67: -Infinity } },
  { minP: 0.1, topK: 9, logitBias: { 70: 6 } },
];

/** How many tokens each run draws of a row, from now on, and of how many rows. */
function runsOf(model: Memformer): [tokens: number, rows: number][] {
  const runs: [tokens: number, rows: number][] = [],
    decoder = model.decoder.bind(model);
  model.decoder = (slots) => {
    const opened = decoder(slots),
      run = opened.run.bind(opened);
    opened.run = (logits, points, sampling, at = [0], ...more) => {
      runs.push([points.length / at.length, at.length]);
      return run(logits, points, sampling, at, ...more);
    };
    return opened;
  };
  return runs;
}

/** The longest run: how many tokens the turns of a step have drawn. */
const longest = (reports: readonly SchedulerReport[]): number =>
  Math.max(...reports.map(({ generated, decoding }) => (decoding === 0 ? 0 : generated / decoding)));

const plain: GenerateOptions = { temperature: 1.5, seed: 7 };

describe("a batch that draws in runs", function () {
  this.timeout(200_000);

  for (const architecture of architectures)
    it(`64 sessions make what each makes alone, to the bit, wherever they end, leave and join: ${architecture}`, async () => {
      await using model = await made({ architecture });
      const runs = runsOf(model);
      using scheduler = new Scheduler(model, { slots: 64, drive: false });
      const prompt = (i: number): string => "x".repeat(8 * (i % 4)),
        alone: { pieces: Piece[]; logits: number[]; saved: Uint8Array }[] = [],
        options: GenerateOptions[] = [],
        sessions: Session[] = [];
      const left = (i: number): number => (i % 9 === 4 ? 5 + (i % 7) : Infinity); // in the middle of a run
      for (let i = 0; i < 64; i++) {
        using one = await Session.open(model);
        await one.read(prompt(i));
        const own = { temperature: 1.5, ...ways[(i * 5) % ways.length], seed: i, maxTokens: 12 + ((i * 5) % 40) };
        let stop: string | undefined;
        if (i % 5 === 2) {
          using probe = one.clone();
          stop = /[ -~]/.exec(textOf(await taken(probe.generatePieces(own))).slice(3))?.[0];
        }
        options.push({ ...own, stop });
        const pieces = await taken(one.generatePieces(options[i]), left(i));
        alone.push({ pieces, logits: [...(await one.logits())], saved: await one.save() });
        sessions.push(await Session.open(model));
        await sessions[i]!.read(prompt(i));
      }
      const work: Promise<Piece[]>[] = [];
      const join = (to: number): void => {
        for (let i = work.length; i < to; i++) work.push(taken(scheduler.add(sessions[i]!, options[i]), left(i)));
      };
      join(40);
      runs.length = 0;
      await drive(scheduler, (step) => {
        if (step === 4) join(52); // behind a run that is under way
        if (step === 9) join(64);
      });
      expect(runs.filter(([tokens, rows]) => tokens === 4 && rows >= 16).length, "long runs of many").to.be.above(4);
      const ends = new Set<unknown>();
      for (const [i, pieces] of (await Promise.all(work)).entries()) {
        expect(pieces, `session ${i}`).to.deep.equal(alone[i]!.pieces);
        ends.add(pieces.at(-1)!.finish);
        expect(await sessions[i]!.save(), `session ${i}`).to.deep.equal(alone[i]!.saved);
        expect([...(await sessions[i]!.logits())]).to.deep.equal(alone[i]!.logits);
        sessions[i]!.dispose();
      }
      expect([...ends]).to.include.members(["length", "stop", null]);
    });

  for (const precision of ["float32", "bfloat16"] as const)
    it(`draws what a turn draws one token at a time: ${precision}`, async () => {
      await using model = await made({ precision });
      const runs = runsOf(model);
      for (const [i, way] of ways.entries()) {
        const options = { temperature: 1.5, ...way, seed: i, maxTokens: 40 };
        using session = await Session.open(model);
        await session.read("a word");
        using other = session.clone();
        runs.length = 0;
        const single = idsOf(await taken(session.generatePieces({ ...options, logprobs: 0 })));
        expect(runs).to.deep.equal([]); // log-probabilities are known draw by draw
        expect(idsOf(await taken(other.generatePieces(options)))).to.deep.equal(single);
        expect(Math.max(...runs.map(([tokens]) => tokens))).to.be.above(1);
      }
    });

  it("leaves what was handed out when turns are left, aborted or discarded in the middle of a run", async () => {
    await using model = await made();
    for (const how of ["leave", "abort", "discard"])
      for (const point of [2, 3, 6, 7]) {
        using scheduler = new Scheduler(model, { slots: 3 });
        const others = Array.from({ length: 2 }, async (_, i) => {
          using other = await Session.open(model);
          return idsOf(await taken(scheduler.add(other, { ...plain, seed: i, maxTokens: 60 })));
        });
        using session = await Session.open(model),
          wanted = await Session.open(model);
        await session.read("Call me");
        const controller = new AbortController(),
          out: number[] = [];
        const work = (async () => {
          const onAbort = how === "discard" ? "discard" : "commit";
          const turn = scheduler.add(session, { ...plain, maxTokens: 50, onAbort, signal: controller.signal });
          for await (const piece of turn) {
            out.push(...idsOf([piece]));
            if (out.length < point) continue;
            if (how === "leave") break;
            controller.abort(new Error("own"));
          }
        })();
        if (how === "leave") await work;
        else expect((await failure(work)).message).to.equal("own");
        await wanted.read("Call me");
        if (how !== "discard") await wanted.read(out);
        expect(session.position, `${how}, ${point}`).to.equal(wanted.position);
        expect([...(await session.logits())]).to.deep.equal([...(await wanted.logits())]);
        for (const pieces of [session, wanted]) await taken(pieces.generatePieces({ ...plain, maxTokens: 40 }));
        expect(await session.save()).to.deep.equal(await wanted.save());
        for (const [i, ids] of (await Promise.all(others)).entries()) {
          using other = await Session.open(model);
          expect(ids).to.deep.equal(idsOf(await taken(other.generatePieces({ ...plain, seed: i, maxTokens: 60 }))));
        }
      }
  });

  it("drops what is under way once the weights have changed", async () => {
    await using model = await made();
    await neverEnds(model);
    using scheduler = new Scheduler(model, { slots: 4, drive: false });
    const options = (i: number): GenerateOptions => ({ temperature: 1.5, seed: i, maxTokens: 60 }),
      text = "x".repeat(40);
    const sessions = await Promise.all(Array.from({ length: 4 }, async () => Session.open(model))),
      alone = await Promise.all(sessions.map(async () => Session.open(model))),
      before: number[][] = [];
    for (const [i, session] of sessions.entries()) {
      await session.read(text);
      using probe = session.clone();
      before.push(idsOf(await taken(probe.generatePieces(options(i)))).slice(0, 16));
      await alone[i]!.read(text);
      await alone[i]!.read(before[i]!.slice(0, 15));
    }
    const work = sessions.map(async (session, i) => taken(scheduler.add(session, options(i))));
    const step = async (): Promise<number> => (await scheduler.step()).generated / 4;
    expect([await step(), await step(), await step(), await step()]).to.deep.equal([1, 2, 4, 4]);
    using large = Tensor.from(new Float32Array(2 ** 22), [2 ** 11, 2 ** 11]);
    for (let i = 0; i < 8; i++) applyOperator("aten::mm", large, large).dispose();
    expect(await step(), "which enqueues a run behind that").to.equal(4);
    const { name, shape } = model.parameters.find((parameter) => parameter.name.endsWith("0.self_attention.qkv.bias"))!;
    const change = (to: number): void => {
      using value = Tensor.from(new Float32Array(shape[0]!).fill(to), shape);
      model.assign(name, value);
    };
    const awaited = step();
    await wait(0);
    change(0.7);
    expect(await awaited, "tokens of a run that were given while the weights changed").to.equal(1);
    expect([await step(), await step()]).to.deep.equal([1, 2]);
    const wanted: number[][] = [];
    for (const [i, one] of alone.entries()) {
      await one.read(before[i]!.slice(15));
      wanted.push([...before[i]!, ...idsOf(await taken(one.generatePieces({ ...options(i), maxTokens: 3 })))]);
    }
    change(-0.4); // nothing of the run under way is given
    await drive(scheduler);
    for (const [i, pieces] of (await Promise.all(work)).entries()) {
      const one = alone[i]!;
      wanted[i]!.push(...idsOf(await taken(one.generatePieces({ ...options(i), maxTokens: 41 }))));
      expect(idsOf(pieces), `session ${i}`).to.deep.equal(wanted[i]);
      expect([...(await sessions[i]!.logits())]).to.deep.equal([...(await one.logits())]);
    }
    for (const session of [...sessions, ...alone]) session.dispose();
  });

  it("fails of a run the turn alone that can draw nothing", async () => {
    await using model = await made({ tieEmbedding: false, architecture: "decoder" });
    const { name, shape } = model.parameters.find(({ name }) => name.endsWith("embedding.weight"))!;
    const weights = (await model.parameter(name).data()) as Float32Array;
    using sick = Tensor.from(
      weights.map((value, i) => (Math.floor(i / shape[1]!) === 7 ? NaN : value)),
      shape,
    );
    model.assign(name, sick);
    using scheduler = new Scheduler(model, { slots: 3 });
    using ill = await Session.open(model),
      well = await Session.open(model),
      alone = await Session.open(model);
    await ill.read([7]);
    const options = { temperature: 0, maxTokens: 24 };
    const fails = failure(taken(scheduler.add(ill, options))),
      goesOn = taken(scheduler.add(well, options));
    expect((await fails).code).to.equal("ERR_MEMFORMER_NOT_FINITE");
    expect(ill.position).to.equal(1);
    expect(idsOf(await goesOn)).to.deep.equal(idsOf(await taken(alone.generatePieces(options))));
  });

  it("frees what it has computed, also what nobody wanted", async () => {
    await using model = await made();
    const computed: Tensor[] = [],
      decoder = model.decoder.bind(model);
    model.decoder = (slots) => {
      const opened = decoder(slots);
      for (const call of ["begin", "step", "prefill"] as const) {
        const own = opened[call].bind(opened) as (...given: unknown[]) => Tensor;
        opened[call] = (...given: unknown[]) => {
          computed.push(own(...given));
          return computed.at(-1)!;
        };
      }
      const run = opened.run.bind(opened);
      opened.run = (...given) => {
        const drawn = run(...given);
        computed.push(drawn.tokens, drawn.logits);
        return drawn;
      };
      return opened;
    };
    const scheduler = new Scheduler(model, { slots: 4, drive: false });
    const sessions = await Promise.all(Array.from({ length: 4 }, async () => Session.open(model)));
    const work = sessions.map(async (session, i) =>
      taken(scheduler.add(session, { ...plain, seed: i, maxTokens: 20 + 7 * i }), i === 2 ? 6 : Infinity),
    );
    await drive(scheduler, async (step) => {
      if (step === 3) await perturb(model, 0.1, 3);
    });
    await Promise.all(work);
    const last = failure(taken(scheduler.add(sessions[0]!, { ...plain, maxTokens: 30 })));
    for (let i = 0; i < 3; i++) await scheduler.step();
    scheduler.dispose();
    expect((await last).code).to.equal("ERR_MEMFORMER_DISPOSED");
    expect(computed.length).to.be.above(20);
    for (const tensor of computed) expect(() => tensor.handle).to.throw(/disposed/);
    for (const session of sessions) session.dispose();
  });
});

describe("runs of a scheduler", function () {
  this.timeout(100_000);
  let model: Memformer;
  before(async () => {
    model = await made();
    await neverEnds(model);
  });
  after(async () => model.dispose());

  /** A scheduler in whose runs are two turns that have drawn something, and what ends them. */
  async function under(policy: SchedulerPolicy = fairPolicy()): Promise<{
    scheduler: Scheduler;
    reports: SchedulerReport[];
    [Symbol.dispose](): void;
  }> {
    const scheduler = new Scheduler(model, { slots: 4, drive: false, policy }),
      reports: SchedulerReport[] = [],
      sessions = await Promise.all([Session.open(model), Session.open(model)]);
    for (const session of sessions)
      void taken(scheduler.add(session, { ...plain, maxTokens: 100 })).catch(() => undefined);
    for (let i = 0; i < 4; i++) {
      reports.push(await scheduler.step());
      await wait(0);
    }
    return {
      scheduler,
      reports,
      [Symbol.dispose]() {
        scheduler.dispose();
        for (const session of sessions) session.dispose();
      },
    };
  }

  it("begin with a token, and grow to four", async () => {
    using given = await under();
    expect(given.reports.map(({ generated, decoding }) => generated / decoding)).to.deep.equal([1, 2, 4, 4]);
    expect(given.reports.map(({ decoding }) => decoding)).to.deep.equal([2, 2, 2, 2]);
  });

  it("take a turn in that joins behind the run under way, and give it its first token by itself", async () => {
    using given = await under();
    using session = await Session.open(model);
    const pieces = taken(given.scheduler.add(session, { ...plain, maxTokens: 9 }));
    const behind = await given.scheduler.step(),
      first = await given.scheduler.step();
    expect(behind).to.include({ generated: 8, decoding: 2 });
    expect(first).to.include({ generated: 3, decoding: 3 });
    expect(session.position).to.equal(1);
    await wait(0);
    expect(await given.scheduler.step()).to.include({ generated: 6, decoding: 3 });
    await drive(given.scheduler);
    using alone = await Session.open(model);
    expect(await pieces).to.deep.equal(await taken(alone.generatePieces({ ...plain, maxTokens: 9 })));
  });

  it("are of one token while somebody reads, or waits to be let in, behind the run under way", async () => {
    const held = 3 * 16 * 4 + 4 * 2 * 32;
    for (const what of ["reads", "waits"]) {
      using scheduler = new Scheduler(model, {
        slots: 2,
        drive: false,
        ...(what === "waits" && { budgetBytes: 2 * held }),
      });
      const sessions = await Promise.all(Array.from({ length: 3 }, async () => Session.open(model)));
      const work = sessions
        .slice(0, 2)
        .map(async (session) => taken(scheduler.add(session, { ...plain, maxTokens: 100 })).catch(() => undefined));
      const reports: SchedulerReport[] = [];
      for (let i = 0; i < 10; i++) {
        if (i === 3)
          work.push(
            taken(scheduler.add(sessions[2]!, { input: "y".repeat(32 * 40), maxTokens: 0 })).catch(() => undefined),
          );
        reports.push(await scheduler.step());
        await wait(0);
      }
      // A text arrives between two steps: the first that could see it is the next but one.
      const [alike, after] = what === "reads" ? [5, 5] : [4, 6],
        each = reports.map(({ generated, decoding }) => generated / decoding);
      expect(each, what).to.deep.equal([1, 2, ...new Array(alike - 2).fill(4), ...new Array(after).fill(1)]);
      if (what === "reads") expect(reports.slice(alike).every(({ read }) => read === 32)).to.be.true;
      scheduler.dispose();
      await Promise.all(work);
      for (const session of sessions) session.dispose();
    }
  });

  it("are as long as the policy says", async () => {
    const five = fairPolicy();
    delete five.run;
    using single = await under(five);
    expect(longest(single.reports)).to.equal(1);
    using pairs = await under(fairPolicy({ runAlone: 2 }));
    expect(pairs.reports.map(({ generated, decoding }) => generated / decoding)).to.deep.equal([1, 2, 2, 2]);
    const policy = fairPolicy({ runBesideWaiting: 3 }),
      view = { key: 1, arrival: 0, inSegment: false };
    expect([policy.run!([view], []), policy.run!([view], [view])]).to.deep.equal([4, 3]);
  });

  it("make no more pieces ahead than they may, and hold nobody back for who takes none", async () => {
    for (const maxAhead of [1, 3, 6]) {
      using scheduler = new Scheduler(model, { slots: 2, maxAhead, drive: false });
      using slow = await Session.open(model),
        quick = await Session.open(model);
      const turn = scheduler.add(slow, { ...plain, maxTokens: 40 }),
        work = taken(scheduler.add(quick, { ...plain, maxTokens: 40 }));
      for (let i = 0; i < 60; i++) {
        await scheduler.step();
        await wait(0);
      }
      const wanted = textOf(await work),
        pieces = turn[Symbol.asyncIterator](),
        out: Piece[] = [];
      let next = pieces.next();
      for (;;) {
        const made = await Promise.race([next, wait(20)]);
        if (made === undefined) break;
        out.push(made.value!);
        next = pieces.next();
      }
      expect(out.length, "made ahead").to.be.within(1, maxAhead);
      const rest = (async () => {
        for (let made = await next; !made.done; made = await pieces.next()) out.push(made.value);
      })();
      await drive(scheduler);
      await rest;
      expect(textOf(out)).to.equal(wanted);
    }
  });

  it("are not of turns whose draws need something else", async () => {
    using given = await under();
    using session = await Session.open(model);
    const pieces = taken(given.scheduler.add(session, { maxTokens: 6, logitsProcessor: script([65], 0) }));
    const reports: SchedulerReport[] = [];
    for (let i = 0; i < 7; i++) {
      reports.push(await given.scheduler.step());
      await wait(0);
    }
    expect(reports.slice(1).map(({ generated, decoding }) => generated / decoding)).to.deep.equal([1, 1, 1, 1, 1, 1]);
    expect(textOf(await pieces)).to.equal("AAAAAA");
  });
});
