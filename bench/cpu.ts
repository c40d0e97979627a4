/**
 * Training tokens a second beside the careful PyTorch program of bench/peers: same configuration, threads and method,
 * window after window with clipping and fused AdamW. The two take turns. Needs a python with torch: MEMFORMER_PYTHON,
 * else python3.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { AdamW, Memformer } from "../lib/index.ts";
import { cpuConfigurations, type Configuration } from "./support/configurations.ts";
import { flag, median, report, type Row } from "./support/report.ts";
import { disposeWindow, randomWindow, timeSteps } from "./support/window.ts";

const configurations: Record<string, Configuration & { batch: number }> = {
  demo: { ...cpuConfigurations.demo, batch: 16 },
  wider: { ...cpuConfigurations.wider, batch: 8 },
  dropout: { ...cpuConfigurations.demo, dropout: 0.1, batch: 16 },
};

interface PeerRow {
  readonly tokensPerSecond: number;
  readonly torch: string;
}

export async function cpu(flags: readonly string[]): Promise<boolean> {
  const threads = flag(flags, "threads", 2),
    rounds = flag(flags, "rounds", 3),
    windows = flag(flags, "windows", 12);
  const python = process.env["MEMFORMER_PYTHON"] ?? "python3";
  const folder = mkdtempSync(join(tmpdir(), "memformer-bench-"));
  const rows: Row[] = [],
    ratios: number[] = [];
  let torch = "";
  try {
    for (const [name, { batch, horizon, ...options }] of Object.entries(configurations)) {
      for (const precision of ["float32", "bfloat16"] as const) {
        await using model = await Memformer.create({ ...options, precision, threads });
        const config = join(folder, "config.json");
        writeFileSync(config, JSON.stringify(model.config));
        const window = randomWindow(model, batch, horizon),
          optimizer = new AdamW(model);
        const tokens = batch * model.config.segmentLength * horizon;
        const ours: number[] = [],
          theirs: number[] = [];
        for (let round = 0; round < rounds; round++) {
          const seconds = await timeSteps(model, window, "mrbp", 5 + windows, optimizer);
          ours.push(tokens / median(seconds.slice(5)));
          const row = JSON.parse(
            execFileSync(
              python,
              [
                fileURLToPath(new URL("peers/train.py", import.meta.url)),
                "--config",
                config,
                "--batch",
                String(batch),
                "--horizon",
                String(horizon),
                "--windows",
                String(windows),
                "--threads",
                String(threads),
                "--precision",
                precision,
                "--json",
              ],
              { encoding: "utf8" },
            ),
          ) as PeerRow;
          theirs.push(row.tokensPerSecond);
          torch = row.torch;
        }
        disposeWindow(window);
        const ratio = median(ours.map((rate, i) => rate / theirs[i]!));
        ratios.push(ratio);
        rows.push({
          configuration: name,
          precision,
          parameters: model.parameterCount,
          "memformer tok/s": Math.round(median(ours)),
          "PyTorch tok/s": Math.round(median(theirs)),
          "ratio (median of rounds)": ratio.toFixed(2),
        });
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  report("cpu", "Training by MRBP on the CPU, tokens a second", rows, { torch, rounds, windows });
  return Math.min(...ratios) >= 1;
}
