/**
 * Every command of the built package on one device, with a corpus of documents: train, interrupt, resume, evaluate,
 * generate, import, inspect, doctor, a session. A line for each check, then as the last line
 * `N passed, N failed, N skipped`; exits with 1 if one failed.
 *   JOB_DEVICE=cuda:0 node --import tsx scripts/gpu-job.mjs        default: cuda:0; a Node from 24 on needs no tsx
 * The checks themselves are in test/support/job.ts. Needs dist/, node_modules and no network.
 */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { root } from "./dist.mjs";
import { job } from "../test/support/job.ts";

const device = process.env.JOB_DEVICE || "cuda:0";
const library = await import(pathToFileURL(join(root, "dist/index.js")).href);
const { checks, remove } = job({ device, cli: [join(root, "dist/cli/main.js")], library });
const counts = { passed: 0, failed: 0, skipped: 0 };
try {
  for (const check of checks) {
    const began = performance.now();
    const seconds = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;
    if (check.skip !== undefined) {
      counts.skipped += 1;
      console.log(`- ${check.name}: skipped: ${check.skip}`);
      continue;
    }
    try {
      const said = await check.run();
      counts.passed += 1;
      console.log(`✔ ${check.name}${said === "" ? "" : `: ${said}`} (${seconds()})`);
    } catch (error) {
      counts.failed += 1;
      console.log(`✘ ${check.name} (${seconds()})\n${String(error?.stack ?? error).replace(/^/gm, "    ")}`);
    }
  }
} finally {
  remove();
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped on ${device}`);
process.exitCode = counts.failed === 0 ? 0 : 1;
