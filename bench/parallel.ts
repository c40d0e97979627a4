/**
 * Tokens per second of training by ranks, and the share of a step that the sum of the gradients takes:
 * `npm run bench -- parallel [--configuration demo] [--ranks 1,2] [--lanes 1,16] [--steps 8] [--device cpu]`. Lanes
 * are those of a rank. On a CPU the ranks share its cores. A second table computes, by what is measured, 8 and 64 ranks
 * that have a machine like this each: `[--computed 8,64] [--bandwidth GB/s]`, by default as between the ranks here.
 * With `--shard-optimizer` each rank holds its share of the optimizer's moments, and nothing is computed for more
 * ranks.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { freePort } from "../lib/distributed/launch.ts";
import { configurations, cpuConfigurations, type Configuration } from "./support/configurations.ts";
import type { ParallelJob, ParallelTimes } from "./support/parallel-rank.ts";
import { choice, flag, report, type Row } from "./support/report.ts";
import { linksOf, reductionOf, type Links } from "./support/scaling.ts";

const program = fileURLToPath(new URL("support/parallel-rank.ts", import.meta.url));
const counts = Array.from({ length: 128 }, (_, i) => String(i + 1));

export async function parallel(flags: readonly string[]): Promise<boolean> {
  const known: Readonly<Record<string, Configuration>> = { ...cpuConfigurations, ...configurations };
  const [name] = choice(flags, "configuration", Object.keys(known), ["demo"]),
    [device] = choice(flags, "device", ["cpu", "cuda"], ["cpu"]);
  const { horizon, ...model } = known[name!]!;
  const ranks = choice(flags, "ranks", counts, ["1", "2"]).map(Number),
    lanes = choice(flags, "lanes", counts, ["1", "16"]).map(Number),
    steps = flag(flags, "steps", 8),
    computed = choice(flags, "computed", counts, ["8", "64"]).map(Number),
    bandwidth = flag(flags, "bandwidth", 0),
    shardOptimizer = flags.includes("--shard-optimizer");
  const measured: { world: number; times: readonly ParallelTimes[] }[] = [];
  for (const world of ranks) {
    const gpus = device === "cuda",
      ofAll = lanes.map((ofRank) => ofRank * world);
    const times = await run(world, { model, horizon, lanes: ofAll, warmup: 3, steps, gpus, shardOptimizer });
    measured.push({ world, times });
    console.log(JSON.stringify({ ranks: world, times }));
  }
  const rows: Row[] = [],
    more: Row[] = [];
  lanes.forEach((ofRank, i) => {
    const first = measured[0]!.times[i]!,
      alone = first.tokensPerStep / first.step / ranks[0]!;
    for (const { world, times: all } of measured) {
      const times = all[i]!,
        rate = times.tokensPerStep / times.step;
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
      if (world === 1 || world !== Math.max(...ranks)) continue;
      const bytes = 4 * times.parameters,
        own = ranks[0] === 1 ? first.shortest.latency : 0,
        { reduction, latency } = times.shortest;
      const between = linksOf({ ranks: world, reduction: reduction - own, latency: Math.max(0, latency - own), bytes });
      if (between === undefined) {
        console.log(`lanes ${ofRank}: a sum of one number took as long as that of all; measure on a quiet machine`);
        continue;
      }
      const links = { ...between, ...(bandwidth > 0 && { bandwidth: bandwidth * 1e9 }) };
      more.push(...computed.map((n) => computedRow(n, ofRank, first, bytes, links)));
    }
  });
  const form = shardOptimizer ? ", moments shared out" : "";
  report(
    `parallel-${name}-${device}${shardOptimizer ? "-sharded" : ""}`,
    `Training by ranks: ${name}, horizon ${horizon}, on ${device}${form}`,
    rows,
  );
  if (shardOptimizer) return true; // a computed step would need the costs of its collectives
  if (more.length > 0) {
    const whose = bandwidth > 0 ? `${bandwidth} GB/s` : "links as between the ranks measured";
    const title = `Computed, not measured: ${name}, horizon ${horizon}, on ${device}, a machine like this per rank, ${whose}`;
    report(`parallel-${name}-${device}-computed`, title, more);
  }
  return true;
}

/** A rank's step takes what it takes alone, and the reduction behind it. */
function computedRow(n: number, lanes: number, alone: ParallelTimes, bytes: number, links: Links): Row {
  const reduction = reductionOf(n, bytes, links),
    step = alone.step + reduction;
  return {
    "lanes a rank": lanes,
    ranks: n,
    "tok/s, computed": Math.round((n * alone.tokensPerStep) / step),
    "efficiency, computed": (alone.step / step).toFixed(2),
    "ms a step": (1000 * step).toFixed(1),
    "ms a reduction": (1000 * reduction).toFixed(1),
    "share %": ((100 * reduction) / step).toFixed(1),
    "GB/s": (links.bandwidth / 1e9).toFixed(2),
    "us a pass": (1e6 * links.latency).toFixed(0),
  };
}

/** Runs the ranks, each with its share of the cores; what rank 0 measured, by lanes. */
async function run(world: number, job: ParallelJob): Promise<readonly ParallelTimes[]> {
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
  return JSON.parse(outputs[0]!) as readonly ParallelTimes[];
}
