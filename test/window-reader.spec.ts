/** Reading far ahead leaves the event loop its turns, also where nothing has to be waited for. */
import { setImmediate } from "node:timers/promises";
import { expect } from "chai";
import { evaluate, type Segment, type SegmentStream } from "../lib/index.ts";
import { WindowReader } from "../lib/train/window-reader.ts";
import { runModel } from "./support/runs.ts";

/** A stream of so many segments that are there at once, each after a millisecond of work. */
function busy(segments: number, { batch = 1, length = 8 } = {}): SegmentStream & { read: number } {
  const segment: Segment = {
    batch,
    length,
    source: new Int32Array(batch * length).fill(1),
    target: new Int32Array(batch * length).fill(2),
    reset: new Uint8Array(batch),
  };
  const stream = {
    lanes: batch,
    segmentLength: length,
    vocabulary: 18,
    bos: 17,
    read: 0,
    next: async () => {
      for (const began = performance.now(); performance.now() - began < 1;);
      return stream.read++ < segments ? segment : undefined;
    },
    position: () => stream.read,
    seek: () => undefined,
  };
  return stream;
}

/** The most segments that were read between two turns of the event loop. */
async function mostBetweenTurns(stream: { readonly read: number }, work: Promise<unknown>): Promise<number> {
  let most = stream.read,
    before = stream.read,
    over = false;
  const ended = work.finally(() => {
    over = true;
  });
  while (!over) {
    await setImmediate();
    most = Math.max(most, stream.read - before);
    before = stream.read;
  }
  await ended;
  return most;
}

describe("reading ahead", () => {
  it("of training gives turns, so that a large window holds the loop for no longer than a small one", async () => {
    const stream = busy(Infinity),
      reader = new WindowReader(stream, 60, 20);
    expect(await mostBetweenTurns(stream, reader.next())).to.be.below(5);
    const window = (await reader.next())!;
    expect([window.segments.length, window.next, stream.read]).to.eql([60, 80, 100]);
  });

  it("comes to its end in one turn when nobody waits for it any more", async () => {
    const stream = busy(Infinity),
      reader = new WindowReader(stream, 40, 0),
      window = reader.next();
    await reader.finish();
    expect(stream.read).to.equal(40);
    expect((await window)!.segments).to.have.length(40);
  });

  it("of evaluation gives turns too", async () => {
    await using model = await runModel();
    const stream = busy(60);
    expect(await mostBetweenTurns(stream, evaluate(model, stream, { segmentsPerStep: 60, ablations: [] }))).to.be.below(
      5,
    );
  });
});
