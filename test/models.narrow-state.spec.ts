/** A session keeps its memory in two bytes a number; a model that computes in them takes it so, and gives it so. */
import { expect } from "chai";
import { applyOperator, tidy, type CreateOptions, type Memformer, type State } from "../lib/index.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";
import { bits, memformers, perturb, randomWindow, tinyModel } from "./support/models.ts";

/** The memory, which is the first part of the state, as it is kept and as it is computed with. */
const kept = ([memory, ...others]: State): State => [applyOperator("aten::_to_copy", memory!, "bfloat16"), ...others];
const wide = ([memory, ...others]: State): State => [applyOperator("aten::_to_copy", memory!, "float32"), ...others];

/** The kept memory after each segment of a window; `narrow`: handed over as it is kept. */
async function path(model: Memformer, narrow: boolean): Promise<string[]> {
  const states = tidy(() => {
    let state = kept(model.initialState(4));
    return randomWindow(model, { segments: 4 }).map((segment) => {
      const uploaded = model.upload(segment);
      return (state = narrow ? model.advance(uploaded, state) : kept(model.advance(uploaded, wide(state))));
    });
  });
  const found: string[] = [];
  for (const parts of states) {
    expect((await parts[0]!.read()).dtype).to.equal("bfloat16");
    found.push((await Promise.all(parts.map(bits))).join());
    for (const part of parts) part.dispose();
  }
  return found;
}

function same(device: CreateOptions["device"]): void {
  for (const architecture of memformers)
    it(`of ${architecture}`, async () => {
      await using model = await tinyModel({ architecture, precision: "bfloat16", ...(device && { device }) });
      await perturb(model, 0.1);
      const expected = await path(model, false);
      for (let time = 0; time < 3; time++) expect(await path(model, true), `window ${time}`).to.deep.equal(expected);
    });
}

describe("a memory that is kept in two bytes advances to the same bits", () => same(undefined));
describeOnGpu("on a GPU, a memory that is kept in two bytes advances to the same bits", () => same(GPU));
