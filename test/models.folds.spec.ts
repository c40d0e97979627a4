/**
 * What is made of weights alone is kept between passes without gradient: it has to be that of the weights as they are.
 */
import { expect } from "chai";
import { AdamW, mrbp, tidy, type CreateOptions, type Memformer } from "../lib/index.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";
import { bits, memformers, perturb, randomWindow, tinyModel, writers } from "./support/models.ts";

/** The memory after a window of segments that are read, three times over: as it is, recorded, replayed. */
async function remembered(model: Memformer): Promise<string[]> {
  const found: string[] = [];
  for (let time = 0; time < 3; time++) {
    const last = tidy(() => {
      let state = model.initialState(4);
      for (const segment of randomWindow(model)) state = model.advance(model.upload(segment), state);
      return state;
    });
    found.push((await Promise.all(last.map(bits))).join());
    for (const part of last) part.dispose();
  }
  return found;
}

/** Another model with the same weights, which has kept nothing. */
async function again(model: Memformer, options: CreateOptions): Promise<Memformer> {
  const twin = await tinyModel({ ...options, seed: 99 });
  for (const { name } of model.parameters) {
    using value = model.parameter(name);
    twin.assign(name, value);
  }
  return twin;
}

/** One optimizer step on a window. */
function train(model: Memformer, optimizer: AdamW): void {
  tidy(() => {
    const window = randomWindow(model).map((segment) => model.upload(segment));
    mrbp(model, window, model.initialState(4), {});
    optimizer.step(0.1, model.clipGradients(0), 1);
    return [];
  });
}

function follow(device: CreateOptions["device"]): void {
  for (const architecture of memformers)
    for (const writer of writers)
      it(`of ${architecture}, ${writer}: assigned, and trained`, async () => {
        const options: CreateOptions = {
          architecture,
          writer,
          memoryNorm: true,
          dropout: 0,
          ...(device && { device }),
        };
        await using model = await tinyModel(options);
        const first = await remembered(model);
        await perturb(model, 0.1);
        const assigned = await remembered(model);
        {
          await using fresh = await again(model, options);
          expect(assigned).to.deep.equal(await remembered(fresh));
        }
        using optimizer = new AdamW(model, {});
        train(model, optimizer);
        const trained = await remembered(model);
        {
          await using fresh = await again(model, options);
          expect(trained).to.deep.equal(await remembered(fresh));
        }
        expect(new Set([first[0], assigned[0], trained[0]]).size).to.equal(3);
      });
}

describe("what is kept between passes is of the weights as they are", () => follow(undefined));
describeOnGpu("on a GPU, what is kept between passes is of the weights as they are", () => follow(GPU));
