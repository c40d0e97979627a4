/**
 * `npm run bench -- NAME [flags]`: one measurement each, printed as a table and kept in bench/results/NAME.json with the machine,
 * the versions and the commit. A bench that has a target exits with 1 when it is missed.
 */
import { nearest } from "../lib/errors.ts";
import { binding } from "./binding.ts";
import { cpu } from "./cpu.ts";
import { cuda } from "./cuda.ts";
import { horizonMemory } from "./horizon.ts";
import { mrbpMemory } from "./mrbp.ts";
import { profiled } from "./profile.ts";
import { recall } from "./recall.ts";
import { service } from "./service.ts";

const benches: Record<string, (flags: readonly string[]) => Promise<boolean>> = {
  mrbp: mrbpMemory, binding, cpu, cuda, horizon: horizonMemory, profile: profiled, recall, service,
};

const [name = "", ...flags] = process.argv.slice(2);
const bench = benches[name];
if (bench === undefined) {
  const meant = nearest(name, Object.keys(benches));
  console.error(`there is no bench "${name}"${meant === undefined ? "" : `; did you mean "${meant}"?`}\nbenches: ${Object.keys(benches).join(", ")}`);
  process.exit(2);
}
process.exitCode = await bench(flags) ? 0 : 1;
