import { expect } from "chai";
import { modelConfig, presets, type ModelConfig } from "../lib/model/config.ts";
import { segmentsPerStep } from "../lib/model/segments-per-step.ts";

const GiB = 2 ** 30;

describe("segments that MRBP takes together on a GPU", () => {
  const wiki = modelConfig({ ...presets.wiki, precision: "bfloat16" }),
    mnist = modelConfig({ ...presets.mnist, precision: "bfloat16" });

  const together = (config: ModelConfig, parameters: number, batch: number, length: number, memory: number): number =>
    segmentsPerStep("training", { config, parameters, batch, length, deviceBytes: memory * GiB });

  it("are as many as keep it busy, where memory is no matter", () => {
    for (const batch of [1, 16, 64]) {
      const G = together(wiki, 0, batch, 128, 1024);
      expect(G * batch * 128 * 512).to.be.within(2 ** 25, 2 ** 25 + batch * 128 * 512 - 1);
    }
    expect(together(wiki, 0, 600, 128, 1024)).to.equal(1);
    expect(together(mnist, 0, 64, 56, 1024)).to.equal(74);
  });

  it("are fewer on a small GPU, in a wide dtype, and one at least", () => {
    const on = (memory: number): number => together(wiki, 1e8, 16, 128, memory);
    expect([80, 24, 12, 1].map(on)).to.deep.equal([32, 10, 4, 1]);
    expect(together({ ...wiki, precision: "float32" }, 1e8, 16, 128, 80)).to.be.below(on(80));
  });
});
