import { expect } from "chai";
import {
  AdamW,
  disposeSegment,
  Memformer,
  type ModelOptions,
  mrbp,
  PADDING,
  Random,
  type Segment,
  type State,
  type Tensor,
  tidy,
} from "../lib/index.ts";
import type { Device } from "../lib/native/cuda.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";

const STEPS = 200,
  BATCH = 8,
  HORIZON = 4,
  LENGTH = 16,
  VOCABULARY = 33;

/** Endless text, a word of its own a row: the next letter follows from the last, mostly. */
function* text(): Generator<Segment[]> {
  const random = new Random(4),
    next = Array.from({ length: VOCABULARY - 1 }, () => random.below(VOCABULARY - 1));
  const last = Array.from({ length: BATCH }, () => random.below(VOCABULARY - 1));
  let source = new Int32Array(BATCH * LENGTH).fill(PADDING),
    first = true;
  for (;;) {
    yield Array.from({ length: HORIZON }, () => {
      const target = Int32Array.from({ length: BATCH * LENGTH }, (_, i) => {
        const row = Math.floor(i / LENGTH);
        return (last[row] = random.below(8) === 0 ? random.below(VOCABULARY - 1) : next[last[row]!]!);
      });
      const segment = {
        batch: BATCH,
        length: LENGTH,
        source,
        target,
        reset: new Uint8Array(BATCH).fill(first ? 1 : 0),
      };
      source = target;
      first = false;
      return segment;
    });
  }
}

/** The mean loss of every step of a training run. */
async function curve(device: Device, precision: NonNullable<ModelOptions["precision"]>): Promise<number[]> {
  await using model = await Memformer.create({
    preset: "tiny",
    vocabulary: VOCABULARY,
    bos: VOCABULARY - 1,
    segmentLength: LENGTH,
    dropout: 0.1,
    precision,
    device,
  });
  using optimizer = new AdamW(model);
  const windows = text(),
    losses: Promise<number>[] = [];
  let state: State = model.initialState(BATCH);
  for (let step = 0; step < STEPS; step++) {
    const made = tidy(() => {
      const window = (windows.next().value as Segment[]).map((segment) => model.upload(segment));
      const result = mrbp(model, window, state, { seed: step });
      window.forEach(disposeSegment);
      optimizer.step(1e-3 * Math.min(1, (step + 1) / 20), model.clipGradients(0), 1);
      return { losses: result.losses, state: result.state };
    });
    for (const tensor of state) tensor.dispose();
    state = made.state;
    losses.push(mean(made.losses));
    if (step % 20 === 19) await losses.at(-1);
  }
  for (const tensor of state) tensor.dispose();
  return Promise.all(losses);
}

async function mean(losses: readonly Tensor[]): Promise<number> {
  const values = await Promise.all(losses.map(async (loss) => loss.item()));
  for (const loss of losses) loss.dispose();
  return values.reduce((sum, loss) => sum + loss) / values.length;
}

function average(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
}

describeOnGpu(`the losses of ${STEPS} training steps on a GPU`, function () {
  this.timeout(300_000);
  let expected: number[];

  before(async () => {
    expected = await curve("cpu", "float32");
  });

  it("fall", () => {
    expect(average(expected.slice(-20))).to.be.below(0.6 * average(expected.slice(0, 20)));
  });

  it("lie on those of a CPU in float32: 1e-5 at first, 1e-3 to the end", async () => {
    const found = await curve(GPU, "float32");
    for (const [step, loss] of expected.entries()) {
      expect(Math.abs(found[step]! - loss) / loss, `step ${step}`).to.be.at.most(step < 20 ? 1e-5 : 1e-3);
    }
  });

  for (const precision of ["bfloat16", "float16"] as const)
    it(`are near them in ${precision}: 5 % a step, 2 % over twenty`, async () => {
      const found = await curve(GPU, precision);
      for (const [step, loss] of expected.entries())
        expect(Math.abs(found[step]! - loss) / loss, `step ${step}`).to.be.at.most(0.05);
      for (let from = 0; from < STEPS; from += 20) {
        const there = average(found.slice(from, from + 20)),
          here = average(expected.slice(from, from + 20));
        expect(Math.abs(there - here) / here, `steps from ${from}`).to.be.at.most(0.02);
      }
    });
});
