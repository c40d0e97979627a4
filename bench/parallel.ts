/**
 * Tokens per second of training by ranks, and the share of a step that the sum of the gradients takes:
 * `npm run bench -- parallel [--configuration demo] [--ranks 1,2] [--lanes 1,16] [--steps 8] [--device cpu]`. Lanes
 * are those of a rank. On a CPU the ranks share its cores.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { freePort } from "../lib/distributed/launch.ts";
import { configurations, cpuConfigurations, type Configuration } from "./support/configurations.ts";
import type { ParallelJob, ParallelTimes } from "./support/parallel-rank.ts";
import { choice, flag, report, type Row } from "./support/report.ts";

const program = fileURLToPath(new URL("support/parallel-rank.ts", import.meta.url));
const counts = Array.from({ length: 128 }, (_, i) => String(i + 1));

export async function parallel(flags: readonly string[]): Promise<boolean> {
  const known: Readonly<Record<string, Configuration>> = { ...cpuConfigurations, ...configurations };
  const [name] = choice(flags, "configuration", Object.keys(known), ["demo"]),
    [device] = choice(flags, "device", ["cpu", "cuda"], ["cpu"]);
  const { horizon, ...model } = known[name!]!;
  const ranks = choice(flags, "ranks", counts, ["1", "2"]).map(Number),
    lanes = choice(flags, "lanes", counts, ["1", "16"]).map(Number),
    steps = flag(flags, "steps", 8);
  const rows: Row[] = [];
  for (const ofRank of lanes) {
    let alone = 0;
    for (const world of ranks) {
      const gpus = device === "cuda";
      const times = await run(world, { model, horizon, lanes: ofRank * world, warmup: 3, steps, gpus });
      const rate = times.tokensPerStep / times.step;
      if (world === ranks[0]) alone = rate / world;
      rows.push({
        "lanes a rank": ofRank,
        ranks: world,
        "tok/s": Math.round(rate),
        efficiency: (rate / world / alone).toFixed(2),
        "ms a step": (1000 * times.step).toFixed(1),
        "ms a reduction": (1000 * times.reduction).toFixed(1),
        "share %": ((100 * times.reduction) / times.step).toFixed(1),
        parameters: times.parameters,
      });
    }
  }
  report(`parallel-${name}-${device}`, `Training by ranks: ${name}, horizon ${horizon}, on ${device}`, rows);
  return true;
}

/** Runs the ranks, each with its share of the cores; what rank 0 measured. */
async function run(world: number, job: ParallelJob): Promise<ParallelTimes> {
  const port = await freePort(),
    threads = String(Math.max(1, Math.floor(availableParallelism() / world)));
  const outputs = await Promise.all(
    Array.from({ length: world }, async (_, rank) => {
      const child = spawn(process.execPath, ["--import", "tsx", program, JSON.stringify(job)], {
        stdio: ["ignore", "pipe", "inherit"],
        env: {
          ...process.env,
          OMP_NUM_THREADS: threads,
          RANK: String(rank),
          LOCAL_RANK: String(rank),
          WORLD_SIZE: String(world),
          MASTER_ADDR: "127.0.0.1",
          MASTER_PORT: String(port),
        },
      });
      let output = "";
      child.stdout.on("data", (piece) => (output += String(piece)));
      const [code] = (await once(child, "close")) as [number | null];
      if (code !== 0) throw new Error(`rank ${rank} of ${world} ended with ${code}`);
      return output;
    }),
  );
  return JSON.parse(outputs[0]!) as ParallelTimes;
}
