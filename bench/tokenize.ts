/**
 * Tokenizing text by a tokenizer.json: MB/s by the calling thread alone, by a worker, then by 2, 4, ... threads, of
 * which the calling one is the last; how late a timer of 1 ms is meanwhile.
 * Flags: --megabytes 100, --merges 15744 (with the 256 bytes a vocabulary of 16,000), --threads, the most (default: one
 * per core; powers of two before), --rounds 3, in turns; a rate is the best round's, for other work on the machine only
 * ever takes some away. MEMFORMER_TEXT names a text file, MEMFORMER_TOKENIZER a tokenizer.json; else the books
 * of @stdlib are repeated with other words in between, and the tokenizer is made of GPT-2's first merges. Each row is a
 * process of its own, so that peak memory is its own.
 */
import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { namedText } from "../lib/data/known-datasets.ts";
import { gpt2Merges } from "./support/gpt2-merges.ts";
import { flag, median, report, type Row } from "./support/report.ts";

interface Run {
  readonly bytes: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly late: number;
  readonly peak: number;
}

export async function tokenizing(flags: readonly string[]): Promise<boolean> {
  const rounds = flag(flags, "rounds", 3),
    folder = mkdtempSync(join(tmpdir(), "memformer-bench-"));
  const most = flag(flags, "threads", availableParallelism());
  const counts = [0, ...Array.from({ length: 8 }, (_, i) => 2 ** i).filter((n) => n < most), most];
  try {
    const text =
      process.env["MEMFORMER_TEXT"] ?? (await makeText(join(folder, "text.txt"), flag(flags, "megabytes", 100)));
    const tokenizer =
      process.env["MEMFORMER_TOKENIZER"] ??
      makeTokenizer(join(folder, "tokenizer.json"), flag(flags, "merges", 15_744));
    const runs = counts.map((): Run[] => []);
    for (let round = 0; round < rounds; round++) {
      for (const [i, workers] of counts.entries())
        runs[i]!.push(measure(text, tokenizer, workers, join(folder, "out")));
    }
    const rate = (found: readonly Run[], by: "seconds" | "cpuSeconds"): number =>
      Math.max(...found.map((run) => run.bytes / 1e6 / run[by]));
    const rows = runs.map((found, i): Row => ({
      threads:
        counts[i] === 0
          ? "the calling one"
          : counts[i] === 1
            ? "1 worker"
            : `${counts[i]! - 1} worker${counts[i] === 2 ? "" : "s"} and the calling one`,
      "MB/s": rate(found, "seconds").toFixed(2),
      ratio: (rate(found, "seconds") / rate(runs[0]!, "seconds")).toFixed(2),
      "MB per second of a core": rate(found, "cpuSeconds").toFixed(2),
      "timer late (ms, p99)": median(found.map(({ late }) => late)).toFixed(1),
      "peak memory (MB)": Math.round(median(found.map(({ peak }) => peak))),
    }));
    report("tokenize", "Tokenizing by a tokenizer.json", rows, { bytes: runs[0]![0]!.bytes, rounds });
    const two = counts.findIndex((n) => n >= 2);
    return two < 0 || Number(rows[two]!["ratio"]) >= 1.7;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function measure(text: string, tokenizer: string, workers: number, out: string): Run {
  const program = fileURLToPath(new URL("support/tokenize-once.mjs", import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, text, tokenizer, String(workers), out], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as Run;
}

/**
 * Moby-Dick and the addresses to Congress, over and over; in each turn one word in twenty is a new one, as in text that
 * goes on.
 */
async function makeText(path: string, megabytes: number): Promise<string> {
  const files = [...(await namedText("moby-dick", "")).whole!, ...(await namedText("sotu", "")).whole!];
  const file = openSync(path, "w");
  let bytes = 0;
  for (let turn = 0; bytes < megabytes * 1e6; turn++) {
    for (const name of files) {
      let word = 0;
      const text = readFileSync(name, "utf8")
        .replaceAll("\f", "")
        .replace(/\p{L}{4,}/gu, (found) =>
          turn > 0 && word++ % 20 === 0 ? found + "aeioust"[turn % 7]! + "nrldm"[word % 5]! : found,
        );
      bytes += writeSync(file, `${text}\n\f\n`);
      if (bytes >= megabytes * 1e6) break;
    }
  }
  closeSync(file);
  return path;
}

function makeTokenizer(path: string, merges: number): string {
  const { alphabet, pairs } = gpt2Merges(merges);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const pieces = new Set([...alphabet, ...pairs.map(([left, right]) => left + right)]);
  writeFileSync(
    path,
    JSON.stringify({
      version: "1.0",
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: byteLevel,
      post_processor: null,
      decoder: byteLevel,
      model: {
        type: "BPE",
        vocab: Object.fromEntries([...pieces].map((piece, id) => [piece, id])),
        merges: pairs,
        ignore_merges: false,
      },
    }),
  );
  return path;
}
