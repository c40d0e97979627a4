/** The harness of the operators, tried on a good one and on broken stand-ins for it. */
import { expect } from "chai";
import { biasedNorm } from "../native/ops/biased_norm/biased_norm.spec.ts";
import { applyOperator, Tensor } from "../lib/index.ts";
import { caseChecks, misuseChecks } from "./support/opcheck.ts";
import type { Call } from "./support/opcheck-spec.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";

type Arguments = [memory: Tensor, bias: Tensor, eps: number];

const shape = biasedNorm.cases[0]!;
const good = (...args: Arguments): Tensor => applyOperator(biasedNorm.name, ...args);

/** The sentences of the checks that complain about `broken`, with their complaints. */
async function complaints(broken: (...args: Arguments) => Tensor): Promise<Record<string, string[]>> {
  const call: Call = (...args) => [broken(...(args as Arguments))];
  const found: Record<string, string[]> = {};
  const checks = { ...caseChecks(biasedNorm, shape, call), ...misuseChecks(biasedNorm, call) };
  for (const [sentence, check] of Object.entries(checks)) {
    const said = await check();
    if (said.length > 0) found[sentence] = said;
  }
  return found;
}

/** `y` with `by` in its place where `place` is true; only the rest sends a gradient back. */
function replaced(y: Tensor, place: Tensor, by: Tensor): Tensor {
  return applyOperator("aten::where.self", place, by, y);
}

/** A result of which nothing is written, allocated before the operator's own. */
function unwritten([memory]: Arguments): Tensor {
  return applyOperator("aten::empty_like", memory.detach());
}

/** true at the last element of `like` alone. */
function atLast(like: Tensor): Tensor {
  const flat = applyOperator("aten::reshape", applyOperator("aten::ones_like", like.detach()), [-1]);
  const left = applyOperator(
    "aten::sub.Tensor",
    applyOperator("aten::sum", flat),
    applyOperator("aten::cumsum", flat, 0),
  );
  return applyOperator("aten::view_as", applyOperator("aten::eq.Scalar", left, 0), like);
}

describe("the operators' harness", () => {
  // A block that the collector frees meanwhile is not filled with garbage, and may hold the very numbers that were not
  // written.
  beforeEach(memoryAtRest);

  it("has nothing to say of an operator that works", async () => {
    expect(await complaints(good)).to.deep.equal({});
  });

  it("reports an operator that writes nothing", async () => {
    const found = await complaints((...args) => {
      const nothing = unwritten(args),
        y = good(...args);
      return replaced(y, applyOperator("aten::ones_like", y.detach(), "bool"), nothing);
    });
    expect(found["equals plain loops"]?.join()).to.match(
      /^result 0 in float64 is Infinity off, 1\.0e-12 allowed; worst at \[0, 0, 0\]: NaN, expected/,
    );
    expect(found).to.include.keys(
      "gives the same bits again, whatever freed memory held",
      "gradient matches finite differences",
      "is as accurate as composed ATen in float32",
      "is as accurate as composed ATen in bfloat16",
    );
  });

  it("reports an operator that forgets the last element", async () => {
    const found = await complaints((...args) => {
      const nothing = unwritten(args),
        y = good(...args);
      return replaced(y, atLast(y), nothing);
    });
    expect(found["equals plain loops"]?.join()).to.match(/worst at \[2, 4, 6\]: NaN, expected/);
    expect(found).to.include.keys(
      "is as accurate as composed ATen in float32",
      "is as accurate as composed ATen in bfloat16",
    );
  });

  it("reports an operator that leaves zero in the last element", async () => {
    const found = await complaints((...args) => {
      const y = good(...args);
      return replaced(y, atLast(y), applyOperator("aten::zeros_like", y.detach()));
    });
    expect(found["equals plain loops"]?.join()).to.match(/worst at \[2, 4, 6\]: 0, expected/);
  });

  it("reports an operator that drops a gradient", async () => {
    const found = await complaints((memory, bias, eps) => good(memory, bias.detach(), eps));
    expect(found["gradient matches finite differences"]?.join()).to.match(
      /the gradient of argument 1 is 0 at element 0, finite differences give/,
    );
    expect(found).not.to.include.keys("equals plain loops", "is as accurate as composed ATen in float32");
  });

  it("calls an operator as its spec says", async () => {
    const spec = { ...biasedNorm, call: (...[memory, bias, eps]: Arguments) => [good(memory, bias.detach(), eps)] };
    expect((await caseChecks(spec, shape)["gradient matches finite differences"]!()).join()).to.match(
      /the gradient of argument 1 is 0 at element 0, finite differences give/,
    );
  });

  it("reports an operator that drops the gradient of one element", async () => {
    const found = await complaints((memory, bias, eps) =>
      good(replaced(memory, atLast(memory), memory.detach()), bias, eps),
    );
    expect(found["gradient matches finite differences"]?.join()).to.match(
      /^the gradient of argument 0 is 0 at element 104, finite differences give/,
    );
  });

  it("reports an operator that reads its inputs as if they were contiguous", async () => {
    const found = await complaints((memory, bias, eps) =>
      good(applyOperator("aten::as_strided", memory, [3, 5, 7], [35, 7, 1]), bias, eps),
    );
    expect(found["takes inputs that are not contiguous"]?.join()).to.match(/^result 0, strided is /);
    expect(found).not.to.include.keys("equals plain loops");
  });

  it("reports an operator that rounds on the way", async () => {
    const found = await complaints((memory, bias, eps) => {
      const narrow = good(
        applyOperator("aten::to.dtype", memory, "bfloat16"),
        applyOperator("aten::to.dtype", bias, "bfloat16"),
        eps,
      );
      return applyOperator("aten::type_as", narrow, memory);
    });
    expect(found).to.include.keys(
      "equals plain loops",
      "gradient matches finite differences",
      "is as accurate as composed ATen in float32",
    );
    expect(found).not.to.include.keys("is as accurate as composed ATen in bfloat16");
  });

  it("reports an operator that keeps memory", async () => {
    const kept: Tensor[] = [];
    const found = await complaints((...args) => {
      queueMicrotask(() => kept.push(Tensor.from(new Uint8Array(1000), [1000]))); // where no tidy sees it
      return good(...args);
    });
    expect(found).to.have.all.keys("does not leak");
    for (const tensor of kept) tensor.dispose();
  });

  it("reports a misuse that is not refused, one with other words, and one with another code", async () => {
    const misuse = biasedNorm.misuses[0]!;
    const checks = misuseChecks({
      ...biasedNorm,
      misuses: [
        { ...misuse, what: "good arguments", arguments: (...args) => args },
        { ...misuse, what: "other words", message: /^something else$/ },
        { ...misuse, what: "another code", code: "DTYPE" },
      ],
    });
    expect((await checks["good arguments"]!()).join()).to.match(/^it is not refused, expected SHAPE/);
    expect((await checks["other words"]!()).join()).to.match(
      /^its sentence is "biased_norm: memory must .*", expected \/\^something else\$\//,
    );
    expect((await checks["another code"]!()).join()).to.match(
      /^it fails with ERR_MEMFORMER_SHAPE, expected ERR_MEMFORMER_DTYPE/,
    );
  });
});
