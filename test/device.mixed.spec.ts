import { expect } from "chai";
import {
  AdamW,
  applyOperator,
  backward,
  callOperator,
  synchronize,
  Tensor,
  tidy,
  type Memformer,
  type SegmentTensors,
  type State,
} from "../lib/index.ts";
import { describeOnGpu, GPU, toGpu } from "./support/gpu.ts";
import { numbers, randomWindow, tinyModel } from "./support/models.ts";
import { failure } from "./support/failure.ts";

/**
 * A tensor on LibTorch's "meta" device, which every machine has: as one on another device, and without numbers to
 * bring.
 */
function elsewhere(shape: readonly number[], dtype = "float64"): Tensor {
  return applyOperator("aten::empty.memory_format", shape, dtype, null, "meta");
}

/** What a call without results fails with. */
async function callFailure(call: () => unknown): Promise<{ code: string; message: string }> {
  return failure(async () => {
    call();
    await synchronize();
  });
}

/** What a call fails with, of whose results one is read. */
async function readFailure(call: () => Tensor): Promise<{ code: string; message: string }> {
  return failure(async () => call().data());
}

describe("tensors of several devices in one operator", () => {
  for (const [name, call, names] of [
    [
      "aten::add.Tensor",
      () => applyOperator("aten::add.Tensor", Tensor.from(new Float64Array(3), [3]), elsewhere([3])),
      /self lies on cpu, other on meta/,
    ],
    [
      "aten::where.self",
      () =>
        applyOperator("aten::where.self", Tensor.from(new Uint8Array(3), [3], "bool"), elsewhere([3]), elsewhere([3])),
      /condition lies on cpu, self on meta, other on meta/,
    ],
    [
      "aten::mm",
      () => applyOperator("aten::mm", elsewhere([2, 2]), Tensor.from(new Float64Array(4), [2, 2])),
      /self lies on meta, mat2 on cpu/,
    ],
    [
      "memformer::biased_norm",
      () =>
        applyOperator("memformer::biased_norm", Tensor.from(new Float64Array(4), [1, 2, 2]), elsewhere([2, 2]), 1e-6),
      /memory lies on cpu, bias on meta/,
    ],
  ] as const) {
    it(`${name} says which argument lies where`, async () => {
      const { code, message } = await readFailure(call);
      expect(code).to.equal("ERR_MEMFORMER_DEVICE_MISMATCH");
      expect(message).to.match(names).and.include(name.split(".")[0]);
    });
  }

  it("says so of the elements of a list", async () => {
    const { code, message } = await readFailure(
      () => callOperator("aten::cat", [Tensor.from(new Float64Array(3), [3]), elsewhere([3])], 0)[0]!,
    );
    expect(code).to.equal("ERR_MEMFORMER_DEVICE_MISMATCH");
    expect(message).to.match(/tensors\[0\] lies on cpu, tensors\[1\] on meta/);
  });

  it("leaves other failures what they are", async () => {
    const { code, message } = await readFailure(() =>
      applyOperator("aten::add.Tensor", Tensor.from(new Float64Array(3), [3]), Tensor.from(new Float64Array(2), [2])),
    );
    expect(code).to.equal("ERR_MEMFORMER_NATIVE");
    expect(message).to.include("size of tensor");
  });

  it("knows no device by another name", async () => {
    const { code, message } = await readFailure(() =>
      applyOperator("aten::_to_copy", Tensor.from(new Float64Array(3), [3]), null, null, "gpu"),
    );
    expect(code).to.equal("ERR_MEMFORMER_CONFIG");
    expect(message).to.include('there is no device "gpu"');
  });

  it("has nothing to read of a tensor without numbers", async () => {
    const { code, message } = await readFailure(() => elsewhere([3]));
    expect(code).to.equal("ERR_MEMFORMER_DEVICE_MISMATCH");
    expect(message).to.include("lies on meta");
  });
});

describe("a model's call with a tensor that cannot be brought to it", () => {
  let model: Memformer, segment: SegmentTensors, state: State;
  before(async () => {
    model = await tinyModel();
    segment = model.upload(randomWindow(model, { segments: 1 })[0]!);
    state = model.initialState(4);
  });
  after(async () => {
    await model.dispose();
  });

  const memory = (): State => [elsewhere([4, 3, 16])];
  const target = (): SegmentTensors => ({ ...segment, target: elsewhere([4, 6], "int32") });
  const prefix = (): Tensor => Tensor.from(new Int32Array(4), [4, 1]);
  const calls: Record<string, [() => Tensor, RegExp]> = {
    "forward's state": [() => model.forward(segment, memory()).loss, /state\[0\].*meta/],
    "forward's target": [() => model.forward(target(), state).loss, /segment\.target.*meta/],
    "encode's state": [() => model.encode(segment, memory()).hidden, /state\[0\].*meta/],
    "advance's state": [() => model.advance(segment, memory())[0]!, /state\[0\].*meta/],
    "advance's target": [() => model.advance(target(), state)[0]!, /segment\.target.*meta/],
    "logits' state": [() => model.logits(segment, prefix(), memory()), /state\[0\].*meta/],
    "logits' prefix": [() => model.logits(segment, elsewhere([4, 1], "int32"), state), /prefix.*meta/],
    "replay's state": [() => model.replay([segment], memory(), [1], [], [{}], true).loss, /state\[0\].*meta/],
    "replay's gradient": [() => model.replay([segment], state, [1], memory(), [{}], false).loss, /gradient\[0\].*meta/],
    "score's memory": [() => model.score([segment], { memory: memory(), held: [] }, []).losses, /state\[0\].*meta/],
  };
  for (const [name, [call, words]] of Object.entries(calls)) {
    it(`names ${name}`, async () => {
      const { code, message } = await readFailure(call);
      expect(code).to.equal("ERR_MEMFORMER_DEVICE_MISMATCH");
      expect(message).to.match(words);
    });
  }

  it("names what is assigned to a parameter or to a moment, a norm, a gradient", async () => {
    const { name, shape } = model.parameters[0]!;
    const assigned = await callFailure(() => {
      model.assign(name, elsewhere(shape));
    });
    expect(assigned.code).to.equal("ERR_MEMFORMER_DEVICE_MISMATCH");
    expect(assigned.message).to.include(`'${name}'`);
    using optimizer = new AdamW(model);
    const step = await callFailure(() => {
      optimizer.step(1e-3, elsewhere([]));
    });
    expect(step).to.include({ code: "ERR_MEMFORMER_DEVICE_MISMATCH" });
    expect(step.message).to.include("norm");
    const back = await callFailure(() => {
      tidy(() => {
        backward(
          [applyOperator("aten::mul.Scalar", Tensor.from(new Float64Array(2), [2]).leaf(), 2)],
          [elsewhere([2])],
        );
      });
    });
    expect(back.code).to.equal("ERR_MEMFORMER_DEVICE_MISMATCH");
    expect(back.message).to.include("grads[0]");
  });
});

describeOnGpu("tensors of host and GPU", function () {
  this.timeout(300_000);

  it("are brought together by every call of a model, with gradient too", async () => {
    const [onCpu, onGpu] = [await tinyModel({ device: "cpu", seed: 3 }), await tinyModel({ device: GPU, seed: 3 })];
    await using first = onCpu,
      second = onGpu;
    const window = randomWindow(first, { segments: 1 })[0]!,
      prefix = Tensor.from(new Int32Array(4), [4, 1]);
    const results = async (model: Memformer, place: (tensor: Tensor) => Tensor): Promise<number[][]> => {
      const segment = model.upload(window),
        state = first.initialState(4).map(place);
      const leaves = state.map((tensor) => tensor.leaf()),
        step = model.forward(segment, leaves, { graph: true });
      backward([step.loss], [1]);
      const replayed = model.replay([segment], state, [1], first.initialState(4).map(place), [{}], false);
      const scored = model.score([segment], { memory: state, held: [] }, ["initial", "zeroed", "shuffled", "frozen"]);
      const all = [
        step.loss,
        leaves[0]!.gradient(),
        model.advance(segment, state)[0]!,
        model.encode(segment, state).hidden,
        model.logits(segment, prefix, state),
        replayed.loss,
        replayed.gradient[0]!,
        scored.losses,
      ];
      return numbers(all);
    };
    const expected = await results(first, (tensor) => tensor);
    for (const place of [(tensor: Tensor): Tensor => tensor, toGpu]) {
      const found = await results(second, place);
      found.forEach((values, i) => {
        values.forEach((value, j) => {
          expect(value, `${i}, ${j}`).to.be.closeTo(expected[i]![j]!, 1e-9);
        });
      });
    }
    // A tensor of the GPU in a model of the CPU.
    const back = await results(first, toGpu);
    back.forEach((values, i) => {
      values.forEach((value, j) => {
        expect(value).to.be.closeTo(expected[i]![j]!, 1e-9);
      });
    });
  });

  it("in an operator are refused, with the argument that lies elsewhere", async () => {
    const here = Tensor.from(new Float64Array(4), [2, 2]);
    for (const call of [
      () => applyOperator("aten::add.Tensor", here, toGpu(here)),
      () => applyOperator("aten::where.self", Tensor.from(new Uint8Array(4), [2, 2], "bool"), toGpu(here), toGpu(here)),
      () => applyOperator("aten::mm", toGpu(here), here),
      () => applyOperator("memformer::biased_norm", toGpu(Tensor.from(new Float64Array(4), [1, 2, 2])), here, 1e-6),
    ]) {
      const { code, message } = await readFailure(call);
      expect(code).to.equal("ERR_MEMFORMER_DEVICE_MISMATCH");
      expect(message).to.match(/ on (cpu|cuda:0).* on (cpu|cuda:0)/);
    }
    using ten = Tensor.from(Float64Array.of(10), []);
    expect(await numbers([applyOperator("aten::add.Tensor", toGpu(here), ten)])).to.deep.equal([[10, 10, 10, 10]]);
  });
});
