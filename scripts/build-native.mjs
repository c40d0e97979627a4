/**
 * The plain-Node door to the native build, for node-gyp and prebuildify:
 *   node scripts/build-native.mjs --out DIR [--loader-out DIR] [--debug]
 * compiles, then copies memformer.node and, where it was built, the CUDA half into --out, and loader.node into
 * --loader-out (default: --out).
 */
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { fromDist, main } from "./dist.mjs";

await main(async () => {
  const { values } = parseArgs({
    options: { out: { type: "string" }, "loader-out": { type: "string" }, debug: { type: "boolean", default: false } },
  });
  const { buildNative } = await fromDist("toolchain/build.js");
  const { cudaHalf } = await fromDist("toolchain/package-layout.js");
  const { reportTo } = await fromDist("toolchain/libtorch/report.js");
  const { folder, seconds } = await buildNative({ debug: values.debug, report: reportTo(process.stderr) });
  const out = values.out === undefined ? folder : resolve(values.out);
  const places = { "memformer.node": out, [cudaHalf]: out, "loader.node": resolve(values["loader-out"] ?? out) };
  for (const [name, place] of Object.entries(places)) {
    if (place === folder || !existsSync(join(folder, name))) continue;
    mkdirSync(place, { recursive: true });
    copyFileSync(join(folder, name), join(place, name));
  }
  console.error(`Built in ${seconds.toFixed(0)} s: ${out}`);
});
