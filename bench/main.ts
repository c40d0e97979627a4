/**
 * `npm run bench -- NAME [flags]`: one measurement each, printed as a table and kept in bench/results/NAME.json with
 * the machine, the versions and the commit. A bench that has a target exits with 1 when it is missed.
 */
import { nearest } from "../lib/errors.ts";

type Bench = (flags: readonly string[]) => Promise<boolean>;

/** Each is read when it is asked for: the packages of one need not be there for another. */
const benches: Record<string, () => Promise<Bench>> = {
  bandwidth: async () => (await import("./bandwidth.ts")).bandwidth,
  beside: async () => (await import("./beside.ts")).beside,
  binding: async () => (await import("./binding.ts")).binding,
  cpu: async () => (await import("./cpu.ts")).cpu,
  cuda: async () => (await import("./cuda.ts")).cuda,
  decode: async () => (await import("./decode.ts")).decoding,
  evaluate: async () => (await import("./evaluate.ts")).evaluation,
  horizon: async () => (await import("./horizon.ts")).horizonMemory,
  mrbp: async () => (await import("./mrbp.ts")).mrbpMemory,
  parallel: async () => (await import("./parallel.ts")).parallel,
  profile: async () => (await import("./profile.ts")).profiled,
  recall: async () => (await import("./recall.ts")).recall,
  recipe: async () => (await import("./recipe.ts")).recipeCost,
  serve: async () => (await import("./serve.ts")).serving,
  service: async () => (await import("./service.ts")).service,
  session: async () => (await import("./session.ts")).sessions,
  stores: async () => (await import("./stores.ts")).stores,
  tokenize: async () => (await import("./tokenize.ts")).tokenizing,
  training: async () => (await import("./training.ts")).training,
  worth: async () => (await import("./worth.ts")).worth,
};

const [name = "", ...flags] = process.argv.slice(2);
const bench = benches[name];
if (bench === undefined) {
  const meant = nearest(name, Object.keys(benches));
  console.error(
    `there is no bench "${name}"${meant === undefined ? "" : `; did you mean "${meant}"?`}\nbenches: ${Object.keys(benches).join(", ")}`,
  );
  process.exit(2);
}
process.exitCode = (await (await bench())(flags)) ? 0 : 1;
