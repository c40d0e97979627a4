import { expect } from "chai";
import { cp, readFile } from "node:fs/promises";
import { join } from "node:path";
import { Memformer, RecallStream, Session, Trainer } from "../lib/index.ts";
import { temporary } from "./support/runs.ts";

// Written by commit 812a681, before options and files took the names of today: a decoder with the GRU writer, trained
// for 4 steps, and a session that read some text. It kept what it computed from them, on one thread.
const fixture = new URL("fixtures/before-names/", import.meta.url).pathname;
const checkpoint = join(fixture, "checkpoints", "step-000004");

interface Facts {
  /** Losses of steps 5 and 6. */
  readonly resumed: readonly number[];
  readonly logits: readonly number[];
  readonly loss: number;
  readonly state: readonly number[];
}

const stream = (): RecallStream =>
  new RecallStream({ lanes: 2, segmentLength: 8, keys: 4, fillers: 12, maxLag: 2, seed: 1 });

/** Other processors round otherwise. */
function expectClose(found: Iterable<number | bigint>, exact: readonly number[]): void {
  const numbers = Array.from(found, Number);
  expect(numbers.length).to.equal(exact.length);
  numbers.forEach((value, i) => {
    expect(value).to.be.closeTo(exact[i]!, 1e-5 * Math.max(1, Math.abs(exact[i]!)));
  });
}

describe("files of an earlier version", () => {
  let facts: Facts;
  before(async () => {
    facts = JSON.parse(await readFile(join(fixture, "facts.json"), "utf8")) as Facts;
  });

  it("a model computes what it did", async () => {
    await using model = await Memformer.load(checkpoint, { device: "cpu" });
    expect(model.config).to.include({ architecture: "decoder", segmentLength: 8, writer: "gru", memory: true });
    const made = model.forward(model.upload(await stream().next()), model.initialState(2));
    expectClose([await made.loss.item()], [facts.loss]);
    expectClose(await made.state[0]!.data(), facts.state);
  });

  it("a session goes on where it stood", async () => {
    await using model = await Memformer.load(checkpoint, { device: "cpu" });
    using session = await Session.restore(model, await readFile(join(fixture, "session.bin")));
    expectClose(await session.logits(), facts.logits);
  });

  it("a run resumes", async () => {
    const { path, remove } = await temporary();
    try {
      await cp(join(fixture, "checkpoints"), path, { recursive: true });
      await using model = await Memformer.load(checkpoint, { device: "cpu" });
      const options = {
        steps: 6,
        horizon: 2,
        segmentsPerStep: 1,
        learningRate: 0.01,
        warmup: 1,
        optimizer: "adamw",
      } as const;
      using trainer = new Trainer(model, { ...options, weights: "uniform" });
      const losses: number[] = [];
      for await (const { loss } of trainer.run(stream(), { checkpoints: path, resume: true })) losses.push(loss);
      expectClose(losses, facts.resumed);
    } finally {
      await remove();
    }
  });
});
