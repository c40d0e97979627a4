import { expect } from "chai";
import { AdamW, applyOperator, memoryUsage, Memformer, synchronize, Tensor, tidy } from "../lib/index.ts";
import { randomWindow, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";

describe("disposing", function () {
  this.timeout(60_000);

  it("frees at once and is idempotent; what was enqueued before still runs", async () => {
    const start = (await memoryAtRest()).hostBytes;
    const x = applyOperator("aten::zeros", [1 << 20], "float32"),
      y = applyOperator("aten::add.Scalar", x, 1);
    x.dispose();
    x.dispose();
    expect(x.disposed).to.be.true;
    expect((await y.data())[0]).to.equal(1);
    y.dispose();
    await synchronize();
    expect(memoryUsage().hostBytes).to.equal(start);
  });

  it("makes later use an error with code DISPOSED", async () => {
    const x = Tensor.from(Float32Array.of(1), [1]);
    x.dispose();
    for (const use of [() => x.detach(), () => x.leaf(), () => x.gradient(), () => applyOperator("aten::neg", x)]) {
      expect(use)
        .to.throw(/disposed/)
        .with.property("code", "ERR_MEMFORMER_DISPOSED");
    }
    expect((await failure(x.data())).code).to.equal("ERR_MEMFORMER_DISPOSED");
    const model = await tinyModel(),
      window = randomWindow(model).map((segment) => model.upload(segment));
    const state = model.initialState(4);
    await model.dispose();
    await model.dispose();
    expect(() => model.forward(window[0]!, state))
      .to.throw()
      .with.property("code", "ERR_MEMFORMER_DISPOSED");
    const other = await tinyModel();
    const optimizer = new AdamW(other);
    optimizer.dispose();
    expect(() => {
      optimizer.step(1, state[0]!);
    })
      .to.throw()
      .with.property("code", "ERR_MEMFORMER_DISPOSED");
    await other.dispose();
  });

  it("with `using` and `await using` happens at the block's end", async () => {
    let seen: Tensor, kept: Memformer;
    {
      using x = Tensor.from(Float32Array.of(1), [1]);
      await using model = await tinyModel();
      [seen, kept] = [x, model];
    }
    expect(seen.disposed).to.be.true;
    expect(kept.disposed).to.be.true;
  });

  it("of a model and its optimizer gives all their memory back, without the garbage collector", async () => {
    const start = await memoryAtRest();
    const model = await Memformer.create({ preset: "small", width: 128, precision: "float32" });
    const optimizer = new AdamW(model);
    using norm = Tensor.from(Float32Array.of(0), []);
    optimizer.step(0, norm);
    await synchronize();
    expect(memoryUsage().hostBytes - start.hostBytes).to.be.at.least(3 * 4 * model.parameterCount);
    optimizer.dispose();
    norm.dispose();
    await model.dispose();
    expect(memoryUsage().hostBytes).to.equal(start.hostBytes);
  });

  it("by tidy spares what is returned, in arrays and objects too, and nothing else", () => {
    const made: Tensor[] = [];
    const make = (): Tensor => {
      const tensor = Tensor.from(Float32Array.of(1), [1]);
      made.push(tensor);
      return tensor;
    };
    const result = tidy(() => {
      make();
      const inner = tidy(() => ({ a: make(), b: [make(), { c: make() }], made: make() && 1 }));
      make();
      return [inner.a, { b: inner.b }];
    });
    expect(made.map((tensor) => tensor.disposed)).to.deep.equal([true, false, false, false, true, true]);
    expect(result).to.have.length(2);
    for (const tensor of made) tensor.dispose();
    const thrown: Tensor[] = [];
    expect(() =>
      tidy(() => {
        thrown.push(make());
        throw new RangeError("on the way");
      }),
    ).to.throw(RangeError, "on the way");
    expect(thrown[0]!.disposed).to.be.true;
  });

  it("by tidy refuses a promise", () => {
    expect(() => tidy(async () => Promise.resolve(1)))
      .to.throw()
      .with.property("code", "ERR_MEMFORMER_TIDY_ASYNC");
  });
});
