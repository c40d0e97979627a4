import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import * as library from "../lib/index.ts";
import { describeOnGpu } from "./support/gpu.ts";
import { job, type Check } from "./support/job.ts";

const main = fileURLToPath(new URL("../lib/cli/main.ts", import.meta.url));
const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;

describeOnGpu("the whole job on the GPU", function () {
  this.timeout(600_000);
  const { checks, remove } = job({ device: "cuda:0", cli: ["--import", tsx, main], library });
  after(remove);
  for (const check of checks) declare(check);
});

function declare(check: Check): void {
  if (check.skip !== undefined) it.skip(check.name);
  else
    it(check.name, async () => {
      await check.run();
    });
}
