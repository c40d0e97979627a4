/**
 * Every operator that has a spec, on the GPU. Its file declares its tests on the CPU as well, once, whoever reads it
 * first.
 */
import { expect } from "chai";
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { registered } from "./support/opcheck.ts";
import { cudaChecks } from "./support/opcheck-cuda.ts";
import { titleOf } from "./support/opcheck-spec.ts";
import { describeOnGpu } from "./support/gpu.ts";

// As mocha loads it, so that both get the same module.
const load = createRequire(import.meta.url);
const operators = new URL("../native/ops/", import.meta.url);
for (const file of readdirSync(operators, { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".spec.ts"))
  .sort()) {
  load(new URL(file, operators).pathname);
}

describe("the operators' specs", () => {
  for (const { name, cases } of registered) {
    it(`of ${name} name each case once, and tag one at least for compute-sanitizer`, () => {
      const names = cases.map(({ what }) => what);
      expect(names).to.deep.equal([...new Set(names)]);
      expect(cases.some(({ tags = [] }) => tags.includes("sanitize"))).to.be.true;
    });
  }
});

for (const spec of registered) {
  describeOnGpu(`${spec.name} on the GPU`, () => {
    for (const shape of spec.cases) {
      describe(titleOf(shape), () => {
        for (const [sentence, check] of Object.entries(cudaChecks(spec, shape))) {
          it(sentence, async () => {
            expect(await check()).to.deep.equal([]);
          });
        }
      });
    }
  });
}
