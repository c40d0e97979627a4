/** Sessions that decode token by token: what is restored goes on as what was saved, and new weights are noticed. */
import { expect } from "chai";
import { Session, Tensor, type Memformer, type Piece } from "../lib/index.ts";
import { OpenSegment } from "../lib/generate/open-segment.ts";
import { architectures, open } from "./support/decoding.ts";
import { numbers, perturb, tinyModel } from "./support/models.ts";

async function text(session: Session, maxTokens: number, seed: number): Promise<string> {
  let words = "";
  for await (const piece of session.generate({ maxTokens, seed, temperature: 1.5 })) words += piece;
  return words;
}

async function made(architecture: Memformer["config"]["architecture"]): Promise<Memformer> {
  const model = await tinyModel({ architecture, vocabulary: 257, bos: 256, precision: "float32" });
  await perturb(model, 0.2);
  return model;
}

describe("a session's open segment", function () {
  this.timeout(120_000);

  for (const architecture of architectures) {
    it(`goes on to the bit from where it was saved, wherever that is: ${architecture}`, async () => {
      await using model = await made(architecture);
      using session = await Session.open(model);
      await session.read("Call me");
      for (let saved = 0; saved < 15; saved++) {
        await text(session, 1, saved);
        const bytes = await session.save();
        using restored = await Session.restore(model, bytes);
        using original = await Session.restore(model, bytes);
        await original.logits(); // opened here, and not there
        expect([...(await restored.logits())]).to.deep.equal([...(await session.logits())]);
        expect(await text(restored, 9, 5)).to.equal(await text(original, 9, 5));
        expect(await restored.save()).to.deep.equal(await original.save());
        await restored.read("Ishmael.");
        await original.read("Ishmael.");
        expect(await restored.save()).to.deep.equal(await original.save());
      }
    });

    it(`is computed anew once the weights have changed: ${architecture}`, async () => {
      await using model = await made(architecture);
      using session = await Session.open(model);
      await session.read("ab");
      const before = [...(await session.logits())];
      const { name, shape } = model.parameters.find((parameter) =>
        /0\.(self_attention\.(qkv|query)|delta_rule\.qkv|input)\.bias$/.test(parameter.name),
      )!;
      using value = Tensor.from(new Float32Array(shape[0]!).fill(0.7), shape);
      model.assign(name, value);
      using fresh = await Session.open(model);
      await fresh.read("ab");
      const after = [...(await session.logits())];
      expect(after).to.deep.equal([...(await fresh.logits())]);
      expect(after).to.not.deep.equal(before);
    });
  }

  it("frees every step, also one that went ahead and was not wanted: other weights, another token, the end", async () => {
    await using model = await made("decoder");
    const session = await Session.open(model),
      logitsMade: Tensor[] = [];
    const decoder = model.decoder.bind(model);
    model.decoder = (slots) => {
      const opened = decoder(slots);
      for (const call of ["begin", "step", "prefill"] as const) {
        const own = opened[call].bind(opened) as (...given: unknown[]) => Tensor;
        opened[call] = (...given: unknown[]) => {
          const logits = own(...given);
          logitsMade.push(logits);
          return logits;
        };
      }
      const run = opened.run.bind(opened);
      opened.run = (...given) => {
        const drawn = run(...given);
        logitsMade.push(drawn.tokens, drawn.logits);
        return drawn;
      };
      return opened;
    };
    const { name, shape } = model.parameters.find((parameter) => parameter.name.endsWith("0.self_attention.qkv.bias"))!;
    const pieces = session.generate({ maxTokens: 9, seed: 1, temperature: 1.5 });
    await pieces.next();
    using value = Tensor.from(new Float32Array(shape[0]!).fill(0.5), shape);
    model.assign(name, value);
    await pieces.next();
    await pieces.return();
    await session.read("x");
    await text(session, 3, 2);
    session.dispose();
    expect(logitsMade.length).to.be.above(5);
    for (const logits of logitsMade) expect(() => logits.handle).to.throw(/disposed/);
  });

  for (const architecture of architectures)
    it(`draws the same in one call and in many, whatever runs ahead and is left: ${architecture}`, async () => {
      await using model = await made(architecture);
      const options = { seed: 7, temperature: 1.5 },
        idsOf = async (pieces: AsyncIterable<Piece>, left = Infinity): Promise<number[]> => {
          const ids: number[] = [];
          for await (const { tokens } of pieces) {
            ids.push(...tokens.map(({ id }) => id));
            if (ids.length >= left) break;
          }
          return ids;
        };
      using whole = await Session.open(model);
      const wanted = await idsOf(whole.generatePieces({ ...options, maxTokens: 40 }));
      for (const [maxTokens, left, more] of [
        [1, 1, {}],
        [7, 7, {}],
        [40, 3, {}], // left in the middle of a run
        [5, 5, { logprobs: 0 }], // one at a time
      ] as const) {
        using session = await Session.open(model);
        const ids: number[] = [];
        while (ids.length < wanted.length) {
          const next = await idsOf(session.generatePieces({ ...options, ...more, maxTokens }), left);
          if (next.length === 0) break; // of a character that is not complete
          ids.push(...next);
        }
        expect(ids.slice(0, wanted.length), `${maxTokens}, ${left}`).to.deep.equal(wanted);
      }
    });

  it("takes nothing for its own that ran ahead of another text", async () => {
    await using model = await made("decoder");
    const row = { previous: undefined, state: model.initialState(1), tokens: [] },
      begin = () => ({ segment: open(model, row), state: row.state }),
      sampling = { temperature: 1, topK: 0, topP: 1, tokens: 256, gaps: null };
    using fresh = new OpenSegment(model.decoder());
    const same = async (ran: OpenSegment, tokens: number[], what: string): Promise<void> => {
      fresh.forget();
      const [wanted] = await numbers([fresh.logits(tokens, 0, begin)]);
      expect((await numbers([ran.logits(tokens, 0, begin)]))[0], what).to.deep.equal(wanted);
    };
    for (const known of [true, false])
      for (const follow of [
        (t: number[]) => t,
        () => [],
        (t: number[]) => t.slice(0, 1),
        (t: number[]) => [...t, 5],
        (t: number[]) => [t[0]!, t[1]! ^ 1],
        (t: number[]) => [t[0]! ^ 1, t[1]!, 9],
      ]) {
        using ran = new OpenSegment(model.decoder());
        ran.logits([], 0, begin);
        const [tokens] = await numbers([ran.run(Float64Array.of(0.3, 0.6), sampling, true)]);
        if (known) ran.wentAhead(tokens!);
        await same(ran, follow(tokens!), `${known}, ${String(follow)}`);
      }
  });

  it("asks a model whose logits are its own for them", async () => {
    await using model = await made("decoder");
    using session = await Session.open(model);
    await session.read("abc");
    await session.logits();
    const own = new Float32Array(257).fill(-100);
    own[65] = 100;
    model.logits = () => Tensor.from(own, [1, 257]);
    expect(await text(session, 8, 1)).to.equal("AAAAAAAA");
    Reflect.deleteProperty(model, "logits");
    expect([...(await session.logits())].every(Number.isFinite)).to.be.true;
    expect(session.pending).to.equal(5);
  });
});
