/**
 * `memformer serve` under clients that stream turns without a pause: time to the first token and between tokens, tokens
 * per second, memory, by the number of clients. Server and clients share the machine. Every text is compared with what
 * a session makes alone, and every position with the store's.
 *   [--model demo|tiny|small|wiki] [--clients 1,8,64] [--seconds 20] [--tokens 32] [--vanish 0] [--slots 64]
 *   [--device cpu] [--precision float32] [--threads 1] [--check N] [--name serve]
 * `--vanish`: the share of turns whose client goes before their end; `--check`: only the first N clients' texts are
 * compared, since each takes as long again alone. Exits with 1 when a turn failed, a text was not
 * its session's own, or the server's memory grew by more than 5 % from the middle of the longest run to its end.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Memformer, type CreateOptions, type DeviceName } from "../lib/index.ts";
import { openModel } from "../lib/run/run-folder.ts";
import { Client, type Turn } from "./serve/client.ts";
import { startServer } from "./serve/server.ts";
import { strangers } from "./serve/verify.ts";
import { decodeModels } from "./support/configurations.ts";
import { choice, flag, report, wholeWord, words, type Row } from "./support/report.ts";

/** Models by name; `wiki` with a vocabulary that has a tokenizer of ours, GPT-2's. */
const models: Readonly<Record<string, CreateOptions>> = {
  ...decodeModels,
  tiny: { preset: "tiny", seed: 3 },
  wiki: { ...decodeModels["wiki"], vocabulary: 50_257, bos: 50_256 },
};

export async function serving(flags: readonly string[]): Promise<boolean> {
  const [name] = choice(flags, "model", Object.keys(models), ["demo"]) as [string];
  const counts = words(flags, "clients", ["1", "8", "64"]).map(Number),
    seconds = flag(flags, "seconds", 20),
    tokens = flag(flags, "tokens", 32),
    vanish = flag(flags, "vanish", 0),
    checked = flag(flags, "check", Infinity);
  const device = wholeWord(flags, "device", "cpu") as DeviceName,
    precision = wholeWord(flags, "precision", "float32") as "float32" | "bfloat16";
  const serverFlags = ["--slots", String(flag(flags, "slots", 64)), "--threads", String(flag(flags, "threads", 1))];
  const folder = mkdtempSync(join(tmpdir(), "memformer-serve-")),
    rows: Row[] = [];
  let sound = true;
  try {
    {
      await using made = await Memformer.create({ ...models[name], device: "cpu", precision });
      await made.save(join(folder, "model"));
    }
    const { model: opened, tokenizer } = await openModel(join(folder, "model"), { device, threads: 0 }); // as the server has it
    await using model = opened;
    for (const count of counts) {
      await using server = await startServer(folder, [...serverFlags, "--device", device]);
      const clients = Array.from({ length: count }, (_, i) => new Client(server.url, i, { tokens, vanish }));
      const end = performance.now() + seconds * 1000,
        rss: number[] = [];
      const watch = setInterval(() => void server.rss().then((bytes) => rss.push(bytes)), (seconds * 1000) / 40);
      await Promise.all(clients.map(async (client) => client.run(end)));
      clearInterval(watch);
      const turns = clients.flatMap(({ turns: of }) => of),
        failures = clients.flatMap(({ failures: of }) => of);
      for (const failure of failures.slice(0, 5)) console.error(failure);
      const wrong = await strangers(model, tokenizer, clients.slice(0, checked), tokens);
      for (const each of wrong.slice(0, 5)) console.error(each);
      const growth = Math.max(...rss.slice(-5)) / Math.max(...rss.slice(15, 20)) - 1;
      sound &&= failures.length === 0 && wrong.length === 0 && (count !== Math.max(...counts) || !(growth > 0.05));
      rows.push({
        clients: count,
        ...figures(turns, seconds),
        failures: failures.length,
        "other texts": wrong.length,
        ...memory(rss),
      });
      console.log(rows.at(-1));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  report(wholeWord(flags, "name", "serve"), `memformer serve, ${name}, turns of ${tokens} tokens`, rows, {
    model: name,
    seconds,
    vanish,
    device,
    precision,
    flags: serverFlags.join(" "),
  });
  return sound;
}

/** Latencies in ms over all turns, as a client sees them. */
function figures(turns: readonly Turn[], seconds: number): Row {
  const first = turns.map(({ firstToken }) => firstToken).filter((ms) => ms !== undefined),
    between = turns.flatMap(({ gaps }) => gaps);
  const generated = turns.reduce((sum, { tokens }) => sum + tokens, 0);
  return {
    turns: turns.length,
    vanished: turns.filter(({ vanished }) => vanished).length,
    "tokens/s": Math.round(generated / seconds),
    "first token p50 ms": at(first, 0.5),
    "p99 ms": at(first, 0.99),
    "between tokens p50 ms": at(between, 0.5),
    "between p99 ms": at(between, 0.99),
  };
}

function at(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return Number((sorted[Math.floor(share * (sorted.length - 1))] ?? NaN).toFixed(2));
}

function memory(rss: readonly number[]): Row {
  const mib = (bytes: number | undefined): number => Math.round((bytes ?? NaN) / 2 ** 20);
  return { "RSS MiB, first": mib(rss[0]), middle: mib(rss[rss.length >> 1]), last: mib(rss.at(-1)) };
}
