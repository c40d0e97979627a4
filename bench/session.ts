/**
 * What a session costs however long it has read: the bytes it holds and saves, host memory above the weights, and the
 * milliseconds of a token, after each of `--lengths` tokens; then tokens per second of many sessions in a scheduler,
 * against the same one after another.
 *   [--models demo] [--lengths 1000,10000,100000,1000000] [--tokens 256] [--sessions 1,8,32,64] [--threads 2] [--rounds
 *   3]
 * Exits with 1 when the bytes are not the same at every length, or a token after the longest text takes more than 5 %
 * longer than after the shortest.
 */
import { Memformer, memoryUsage, Random, Scheduler, synchronize, type Session } from "../lib/index.ts";
import { decodeModels } from "./support/configurations.ts";
import { flag, median, quartiles, report, words, type Row } from "./support/report.ts";

/** Generates so many tokens: a document that ends goes on by another seed. */
async function generate(
  pieces: (seed: number, maxTokens: number) => AsyncIterable<string>,
  session: Session,
  tokens: number,
): Promise<void> {
  const end = session.position + tokens;
  for (let seed = 0; session.position < end; seed++)
    for await (const piece of pieces(seed, end - session.position)) void piece;
}

/** Milliseconds a token, the borders of segments included; the session stays what it was. */
async function tokenTime(session: Session, tokens: number): Promise<number> {
  using copy = session.clone();
  const pieces = (seed: number, maxTokens: number): AsyncIterable<string> => copy.generate({ seed, maxTokens });
  await generate(pieces, copy, session.model.config.segmentLength);
  const start = performance.now();
  await generate(pieces, copy, tokens);
  return (performance.now() - start) / tokens;
}

async function byLength(
  model: Memformer,
  name: string,
  flags: readonly string[],
): Promise<{ rows: Row[]; flat: boolean }> {
  const lengths = words(flags, "lengths", ["1000", "10000", "100000", "1000000"]).map(Number),
    tokens = flag(flags, "tokens", 256),
    rounds = flag(flags, "rounds", 9);
  const random = new Random(1),
    { segmentLength, bos } = model.config;
  await synchronize();
  globalThis.gc?.();
  const weights = memoryUsage().hostBytes;
  using session = await model.session();
  const kept: Session[] = [],
    rows: Row[] = [],
    rates: number[] = [];
  for (const length of lengths) {
    // Whole segments: the same place in one at each length.
    const wanted = length - (length % segmentLength) - session.position,
      start = performance.now();
    await session.read(
      (async function* () {
        for (let left = wanted; left > 0; left -= 4096)
          yield Int32Array.from({ length: Math.min(left, 4096) }, () => random.below(bos));
      })(),
    );
    rates.push(wanted / ((performance.now() - start) / 1000));
    globalThis.gc?.();
    await synchronize();
    const above = memoryUsage().hostBytes - weights;
    kept.push(session.clone());
    rows.push({
      model: name,
      "tokens read": session.position,
      "session bytes": session.bytes,
      "saved bytes": (await session.save()).length,
      "KiB above weights": Math.round(above / 1024),
      "read tokens/s": Math.round(rates.at(-1)!),
    });
  }
  // In turns, so that what else the machine does meets all alike.
  const times = kept.map(() => [] as number[]);
  for (let round = 0; round < rounds; round++)
    for (const [i, copy] of kept.entries()) times[i]!.push(await tokenTime(copy, tokens));
  const lower = times.map((of) => quartiles(of)[0]); // what else the machine does only takes time
  for (const copy of kept) copy.dispose();
  const flat = new Set(rows.map((row) => row["session bytes"])).size === 1 && lower.at(-1)! <= 1.05 * lower[0]!;
  return { rows: rows.map((row, i) => ({ ...row, "ms/token": lower[i]!.toFixed(3) })), flat };
}

/** Tokens per second of `count` sessions that generate `tokens` each. */
async function together(model: Memformer, count: number, tokens: number, batched: boolean): Promise<number> {
  using scheduler = new Scheduler(model, { slots: Math.min(count, 64) });
  const sessions = await Promise.all(Array.from({ length: count }, async () => model.session()));
  const run = async (session: Session): Promise<void> =>
    generate(
      (seed, maxTokens) =>
        batched ? scheduler.generate(session, { seed, maxTokens }) : session.generate({ seed, maxTokens }),
      session,
      tokens,
    );
  const start = performance.now();
  if (batched) await Promise.all(sessions.map(run));
  else for (const session of sessions) await run(session);
  const seconds = (performance.now() - start) / 1000;
  for (const session of sessions) session.dispose();
  return (count * tokens) / seconds;
}

export async function sessions(flags: readonly string[]): Promise<boolean> {
  const threads = flag(flags, "threads", 2),
    tokens = flag(flags, "tokens", 256),
    rounds = Math.ceil(flag(flags, "rounds", 9) / 3);
  const rows: Row[] = [],
    many: Row[] = [];
  let flat = true;
  for (const name of words(flags, "models", ["demo"])) {
    await using model = await Memformer.create({ ...decodeModels[name], threads, device: "cpu" });
    const measured = await byLength(model, name, flags);
    rows.push(...measured.rows);
    flat &&= measured.flat;
    for (const count of words(flags, "sessions", ["1", "8", "32", "64"]).map(Number)) {
      const rate = async (batched: boolean): Promise<number> => {
        const rates: number[] = [];
        for (let round = 0; round < rounds; round++)
          rates.push(await together(model, count, Math.min(tokens, 128), batched));
        return median(rates);
      };
      const [batched, alone] = [await rate(true), await rate(false)];
      many.push({
        model: name,
        sessions: count,
        "scheduled tokens/s": Math.round(batched),
        "one after another": Math.round(alone),
        ratio: (batched / alone).toFixed(2),
      });
    }
  }
  report("session", "A session by the length it has read, sampled, the borders of segments included", rows, { tokens });
  report("session-many", "Many sessions in one scheduler", many, { tokens: Math.min(tokens, 128) });
  return flat;
}
