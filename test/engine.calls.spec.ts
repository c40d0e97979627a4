import { expect } from "chai";
import {
  AdamW,
  applyOperator,
  backward,
  cancellable,
  isMemformerError,
  mrbp,
  callOperator,
  callListOperator,
  synchronize,
  Tensor,
  tidy,
  type Memformer,
} from "../lib/index.ts";
import { bits, numbers, randomWindow, takeGradients, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";

const SIZE = 1024;

/** A product of `count` large matrices: a second or so of work. */
function longWork(count: number): Tensor {
  return tidy(() => {
    let product = applyOperator("aten::ones", [SIZE, SIZE], "float32");
    const factor = applyOperator("aten::full", [SIZE, SIZE], 1 / SIZE, "float32");
    for (let i = 0; i < count; i++) product = applyOperator("aten::mm", product, factor);
    return product;
  });
}

describe("a call", function () {
  this.timeout(60_000);

  it("returns its handle at once, and the event loop turns while the engine works", async () => {
    await synchronize();
    const began = performance.now();
    using product = longWork(30);
    const enqueued = performance.now() - began;
    let turns = 0;
    const beat = setInterval(() => {
      turns++;
    }, 1);
    const { data } = await product.read();
    clearInterval(beat);
    const took = performance.now() - began;
    expect(enqueued, `of ${took} ms`).to.be.below(took / 2);
    expect(turns).to.be.above(20);
    expect(new Float32Array(data)[0]).to.be.closeTo(1, 1e-3);
  });

  it("runs in the order it was made, whatever the order of the reads", async () => {
    const x = Tensor.from(Float64Array.of(1), [1]);
    const before = x.detach().data(); // asked for before the next call changes it
    for (const tensor of callOperator("aten::add_.Scalar", x, 41)) tensor.dispose();
    expect([...(await x.data())]).to.deep.equal([42]);
    expect([...(await before)]).to.deep.equal([1]);
    x.dispose();
  });

  it("that fails gives its error to all that is made of it, with its code and this file in the stack", async () => {
    const a = Tensor.from(new Float32Array(6), [2, 3]),
      b = Tensor.from(new Float32Array(8), [4, 2]);
    const product = applyOperator("aten::mm", a, b);
    const further = applyOperator("aten::neg", applyOperator("aten::add.Tensor", product, a));
    for (const tensor of [further, product]) {
      const error = await failure(tensor.data());
      expect(isMemformerError(error)).to.be.true;
      expect(error.code).to.equal("ERR_MEMFORMER_NATIVE");
      expect(error.message).to.match(/2x3 and 4x2/);
      expect(error.stack).to.match(/engine\.calls\.spec\.ts/);
    }
    expect((await failure(product.settled())).message).to.match(/2x3 and 4x2/);
    expect(await a.settled()).to.be.undefined;
    expect(await numbers([applyOperator("aten::neg", a)])).to.deep.equal([[-0, -0, -0, -0, -0, -0]]);
    for (const tensor of [a, b, product, further]) tensor.dispose();
  });

  it("shows the line that made it, not the line that read it", async () => {
    function theCulprit(): Tensor {
      const a = Tensor.from(new Float32Array(6), [2, 3]);
      return applyOperator("aten::mm", a, a);
    }
    const product = tidy(theCulprit);
    async function theReader(): Promise<unknown> {
      return product.data();
    }
    const error = await failure(theReader());
    expect(error.stack)
      .to.match(/theCulprit/)
      .and.not.match(/theReader/);
  });

  it("takes lists, empty ones too, and gives the tensors of a list, as many as it was told", async () => {
    const x = Tensor.from(Float32Array.of(1, 2, 3, 4, 5, 6), [3, 2]),
      rows = callListOperator("aten::unbind.int", 3, x);
    const back = applyOperator("aten::stack", rows.toReversed());
    expect(await numbers([...rows, back])).to.deep.equal([
      [1, 2],
      [3, 4],
      [5, 6],
      [5, 6, 3, 4, 1, 2],
    ]);
    const two = callListOperator("aten::unbind.int", 2, x),
      nothing = applyOperator("aten::stack", []);
    expect((await failure(two[0]!.data())).message).to.match(/made 3 tensors, 2 /);
    expect((await failure(nothing.data())).message).to.match(/stack expects a non-empty TensorList/);
    for (const tensor of [x, ...two, nothing]) tensor.dispose();
  });

  it("of an operator that is not there, or with arguments it does not take, says so", async () => {
    expect(() => callOperator("aten::no_such_thing"))
      .to.throw(/aten::no_such_thing/)
      .with.property("code", "ERR_MEMFORMER_NATIVE");
    const x = Tensor.from(Float32Array.of(1, 2), [2]);
    expect((await failure(applyOperator("aten::neg", x, 1, 2, 3).data())).message).to.match(/takes 1 arguments, got 4/);
    expect((await failure(applyOperator("aten::select.int", x, 0.5, 0).data())).message).to.match(
      /whole number, got 0.5/,
    );
    x.dispose();
  });

  it("with something that is no handle, or a handle of another kind, is a TypeError", async () => {
    await using model = await tinyModel();
    const x = Tensor.from(Float32Array.of(1, 2), [2]);
    for (const wrong of [{}, model, Symbol("x"), () => x]) {
      expect(() => callOperator("aten::neg", wrong as never)).to.throw(TypeError);
    }
    const fake = { handle: model.handle } as never;
    const segment = tidy(() => model.upload(randomWindow(model)[0]!));
    expect(() => model.forward({ ...segment, source: fake }, model.initialState(4))).to.throw(TypeError, /handle/);
    expect(() => model.assign("writer.v_bias", fake)).to.throw(TypeError, /handle/);
    expect(() => {
      backward([fake], [1]);
    }).to.throw(TypeError, /handle/);
    x.dispose();
  });
});

describe("a failed backward", function () {
  this.timeout(60_000);

  it("makes the optimizer skip its step, and surfaces at the next read", async () => {
    await using model = await tinyModel();
    using optimizer = new AdamW(model);
    const name = model.parameters[0]!.name;
    const weight = async (): Promise<string> => {
      using tensor = model.parameter(name);
      return bits(tensor);
    };
    const before = await weight();
    const good = (): void => {
      const result = tidy(() => {
        const window = randomWindow(model).map((segment) => model.upload(segment));
        return mrbp(model, window, model.initialState(4));
      });
      for (const tensor of Object.values(result).flat() as Tensor[]) tensor.dispose();
    };
    good();
    const loose = Tensor.from(Float64Array.of(1), []);
    const theCulprit = (): void => {
      backward([loose], [1]);
    }; // depends on nothing that wants a gradient
    theCulprit();
    tidy(() => {
      optimizer.step(1e-2, model.clipGradients(1));
    });
    const error = await failure(weight());
    expect(error.code).to.equal("ERR_MEMFORMER_NATIVE");
    expect(error.message).to.match(/backward/);
    expect(error.stack).to.match(/theCulprit/);
    expect(await weight()).to.equal(before);
    tidy(() => {
      optimizer.step(1e-2, model.clipGradients(1));
    });
    expect(await weight()).to.not.equal(before);
    loose.dispose();
  });

  it("surfaces once, at a barrier too", async () => {
    using loose = Tensor.from(Float64Array.of(1), []);
    backward([loose], [1]);
    expect((await failure(synchronize())).message).to.match(/backward/);
    await synchronize();
  });
});

describe("an AbortSignal", function () {
  this.timeout(60_000);

  it("in the middle of a window skips what has not run, with code ABORTED, and harms nothing else", async () => {
    await using model = await tinyModel(),
      other = await tinyModel();
    const controller = new AbortController();
    const work = longWork(10);
    const window = (of: Memformer) => randomWindow(of).map((segment) => of.upload(segment));
    const result = cancellable(controller.signal, () => tidy(() => mrbp(model, window(model), model.initialState(4))));
    const beside = tidy(() => mrbp(other, window(other), other.initialState(4)));
    controller.abort(new RangeError("enough"));
    const error = await failure(result.losses[0]!.item());
    expect(error.code).to.equal("ERR_MEMFORMER_ABORTED");
    expect(() => cancellable(controller.signal, () => 1)).to.throw(RangeError, "enough");
    model.zeroGradients();
    expect(Number.isFinite(await beside.losses[0]!.item())).to.be.true;
    const again = tidy(() => mrbp(model, window(model), model.initialState(4)));
    expect(await again.losses[0]!.item()).to.equal(await beside.losses[0]!.item());
    for (const made of [result, beside, again]) {
      for (const tensor of Object.values(made).flat() as Tensor[]) tensor.dispose();
    }
    await takeGradients(model);
    work.dispose();
  });

  it("of an inner scope ends with it: the outer one goes on", async () => {
    const outer = new AbortController(),
      inner = new AbortController(),
      work = longWork(10);
    const [a, b, c] = cancellable(
      outer.signal,
      () =>
        [
          applyOperator("aten::ones", [1], "float32"),
          cancellable(inner.signal, () => applyOperator("aten::ones", [1], "float32")),
          applyOperator("aten::ones", [1], "float32"),
        ] as const,
    );
    outer.abort();
    for (const tensor of [a, c]) expect((await failure(tensor.item())).code).to.equal("ERR_MEMFORMER_ABORTED");
    expect(await b.item()).to.equal(1);
    for (const tensor of [a, b, c, work]) tensor.dispose();
  });
});

describe("two models at once", () => {
  it("do not disturb one another: interleaved calls give what each alone gives", async () => {
    await using a = await tinyModel({ dropout: 0.1 });
    await using b = await tinyModel({ architecture: "decoder", seed: 4, dropout: 0.1 });
    const losses = async (models: readonly Memformer[]): Promise<number[][]> => {
      const made = models.map((): Promise<number>[] => []);
      for (let i = 0; i < 3; i++) {
        for (const [m, model] of models.entries()) {
          const result = tidy(() => {
            const window = randomWindow(model, { seed: i }).map((segment) => model.upload(segment));
            return mrbp(model, window, model.initialState(4), { seed: i });
          });
          made[m]!.push(...result.losses.map(async (loss) => loss.item()));
        }
      }
      const read = await Promise.all(made.map(async (promises) => Promise.all(promises)));
      for (const model of models) model.zeroGradients();
      return read;
    };
    const together = await losses([a, b]);
    expect(together).to.deep.equal([...(await losses([a])), ...(await losses([b]))]);
  });
});
