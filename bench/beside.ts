/**
 * This checkout's training beside another one's, built likewise, on the machine that runs both: the unpadded pipeline
 * of `bench -- cuda` in processes of their own, in turns.
 * `npm run bench -- beside FOLDER [--configurations wiki,mnist] [--batches 16,64] [--rounds 2] [--seconds 2]`; on a CPU
 * `[--configurations demo,wider] [--batches 16]`. Exits with 1 where this one is more than 2 % slower. `spread`: of the
 * ratios of the rounds, smallest to largest; a machine that others share has a wide one.
 */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Memformer } from "../lib/index.ts";
import { configurations, cpuConfigurations, type Configuration } from "./support/configurations.ts";
import { choice, flag, median, report, type Row } from "./support/report.ts";

const allowed = 0.98;

export async function beside(flags: readonly string[]): Promise<boolean> {
  const other = flags[0];
  if (other === undefined || other.startsWith("--")) throw new TypeError("beside needs the folder of another checkout");
  const rounds = flag(flags, "rounds", 2),
    seconds = flag(flags, "seconds", 2),
    sizes = Array.from({ length: 1024 }, (_, i) => String(i + 1));
  const here = fileURLToPath(new URL("..", import.meta.url)),
    child = fileURLToPath(new URL("support/time-checkout.ts", import.meta.url));
  const time = (root: string, configuration: Configuration, batch: string): number =>
    Number(
      execFileSync(
        process.execPath,
        [...process.execArgv, child, root, JSON.stringify(configuration), batch, String(seconds)],
        {
          encoding: "utf8",
          cwd: root,
          stdio: ["ignore", "pipe", "inherit"],
        },
      ).trim(),
    );
  const any = await Memformer.create({ preset: "tiny" }),
    gpu = any.device !== "cpu",
    known: Readonly<Record<string, Configuration>> = gpu ? configurations : cpuConfigurations;
  await any.dispose();
  const rows: Row[] = [];
  let kept = true;
  for (const name of choice(flags, "configurations", Object.keys(known), Object.keys(known))) {
    for (const batch of choice(flags, "batches", sizes, gpu ? ["16", "64"] : ["16"])) {
      const ours: number[] = [],
        theirs: number[] = [];
      for (let round = 0; round < rounds; round++) {
        theirs.push(time(other, known[name]!, batch));
        ours.push(time(here, known[name]!, batch));
      }
      const ratio = median(ours) / median(theirs),
        ratios = ours.map((rate, i) => rate / theirs[i]!);
      kept &&= ratio >= allowed;
      rows.push({
        configuration: name,
        batch,
        "tok/s": Math.round(median(ours)),
        "tok/s there": Math.round(median(theirs)),
        ratio: ratio.toFixed(3),
        spread: `${Math.min(...ratios).toFixed(3)} to ${Math.max(...ratios).toFixed(3)}`,
      });
      console.log(`${name}, batch ${batch}: ${ratio.toFixed(3)}`);
    }
  }
  report("beside", "Training beside another checkout", rows, { rounds });
  return kept;
}
