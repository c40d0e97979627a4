/** Sessions that decode token by token: what is restored goes on as what was saved, and new weights are noticed. */
import { expect } from "chai";
import { Session, Tensor, type Memformer } from "../lib/index.ts";
import { architectures } from "./support/decoding.ts";
import { perturb, tinyModel } from "./support/models.ts";

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
        /0\.(self_attention\.(qkv|query)|input)\.bias$/.test(parameter.name),
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
