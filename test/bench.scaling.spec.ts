import { expect } from "chai";
import { linksOf, reductionOf } from "../bench/support/scaling.ts";

describe("what is computed for more ranks than there are", () => {
  const links = { latency: 20e-6, bandwidth: 3e11 },
    bytes = 407e6;

  it("gives back what is measured, from sums of any number of ranks", () => {
    for (const ranks of [2, 4, 8]) {
      const found = linksOf({
        ranks,
        bytes,
        reduction: reductionOf(ranks, bytes, links),
        latency: reductionOf(ranks, 0, links),
      })!;
      expect(found.latency).to.be.closeTo(links.latency, 1e-12);
      expect(found.bandwidth / links.bandwidth).to.be.closeTo(1, 1e-9);
    }
  });

  it("takes no time for one rank, and for many the time of all bytes twice, and of the passes", () => {
    expect(reductionOf(1, bytes, links)).to.equal(0);
    expect(reductionOf(64, bytes, links)).to.be.closeTo(126 * 20e-6 + (126 / 64) * (bytes / 3e11), 1e-9);
  });

  it("makes nothing of noise", () => {
    expect(linksOf({ ranks: 2, bytes, reduction: 1e-3, latency: 2e-3 })).to.equal(undefined);
  });
});
