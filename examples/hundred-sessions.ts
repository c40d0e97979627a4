/**
 * A hundred sessions from one model, at once: each has its own document, options and place in it; a scheduler batches
 * their tokens into the steps of one decoder.
 * `npx tsx examples/hundred-sessions.ts MODEL_FOLDER [sessions] [tokens]`
 */
import { fileURLToPath } from "node:url";
import { Memformer, Scheduler, type Session } from "../lib/index.ts";

/** What became of a session. */
export interface Told {
  readonly prompt: string;
  readonly text: string;
}

/** Lets `count` sessions read a prompt of their own and go on with it, all at once. */
export async function tellAll(model: Memformer, count: number, maxTokens: number): Promise<Told[]> {
  // A quarter of them decode in a step; memories of half of them are with the engine, the others in host memory.
  const { bytes } = await emptySession(model);
  using scheduler = new Scheduler(model, {
    slots: Math.max(1, count >> 2),
    budgetBytes: Math.max(2, count >> 1) * (bytes + 8 * model.config.segmentLength),
  });
  const one = async (i: number): Promise<Told> => {
    using session = await model.session();
    const prompt = `Chapter ${i + 1}. `;
    await scheduler.read(session, prompt);
    let text = "";
    for await (const piece of scheduler.generate(session, { maxTokens, seed: i, temperature: 0.8 })) text += piece;
    return { prompt, text };
  };
  return await Promise.all(Array.from({ length: count }, async (_, i) => one(i)));
}

async function emptySession(model: Memformer): Promise<Pick<Session, "bytes">> {
  using session = await model.session();
  return { bytes: session.bytes };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , folder, count = "100", tokens = "60"] = process.argv;
  if (folder === undefined) throw new Error("usage: hundred-sessions.ts MODEL_FOLDER [sessions] [tokens]");
  await using model = await Memformer.load(folder);
  const start = performance.now(),
    told = await tellAll(model, Number(count), Number(tokens));
  for (const { prompt, text } of told) console.log(prompt + text.replaceAll("\n", " "));
  const seconds = (performance.now() - start) / 1000;
  console.error(`${told.length} sessions in ${seconds.toFixed(1)} s`);
}
