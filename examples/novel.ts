/**
 * Reads a novel into a memory of constant size, and goes on in its voice; what was read is kept in a file, so that the
 * second time it goes on at once.
 * `npx tsx examples/novel.ts MODEL_FOLDER NOVEL.txt [SESSION_FILE] [tokens]`, after `memformer train NOVEL.txt`, say.
 */
import { createReadStream } from "node:fs";
import { readFile, rename, stat, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Memformer, openTokenizer, Session, type GenerateOptions, type Tokenizer } from "../lib/index.ts";

/** What {@link goOn} needs and tells. */
export interface NovelOptions {
  readonly model: Memformer;
  readonly tokenizer: Tokenizer;
  /** A UTF-8 text. */
  readonly novel: string;
  /** Holds the session once the novel was read. */
  readonly file: string;
  /** Called now and then with the bytes read so far and those of the whole. */
  readonly progress?: (read: number, whole: number) => void;
}

/** A session that has read the novel: from the file, or by reading it, whatever its length, and writing the file. */
export async function read({ model, tokenizer, novel, file, progress }: NovelOptions): Promise<Session<Memformer>> {
  const kept = await readFile(file).catch(() => undefined);
  if (kept !== undefined) return Session.restore(model, kept, tokenizer); // refuses another model's
  const session = await model.session(tokenizer),
    { size } = await stat(novel);
  async function* counted(): AsyncGenerator<Buffer, void, void> {
    let bytes = 0;
    for await (const chunk of createReadStream(novel)) {
      yield chunk as Buffer;
      progress?.((bytes += (chunk as Buffer).length), size);
    }
  }
  await session.read(counted());
  await writeFile(`${file}.partial`, await session.save());
  await rename(`${file}.partial`, file);
  return session;
}

/** The next paragraph, word by word. */
export async function* goOn(session: Session, options: GenerateOptions = {}): AsyncGenerator<string, void, void> {
  yield* session.generate({ temperature: 0.8, minP: 0.02, repetitionPenalty: 1.1, stop: "\n\n", ...options });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , folder, novel, file = "novel.session", tokens = "400"] = process.argv;
  if (folder === undefined || novel === undefined)
    throw new Error("usage: novel.ts MODEL_FOLDER NOVEL.txt [SESSION_FILE] [tokens]");
  await using model = await Memformer.load(folder);
  const tokenizer = await openTokenizer("bytes");
  using session = await read({
    model,
    tokenizer,
    novel,
    file,
    progress: (done, whole) => process.stderr.write(`\rread ${Math.round((100 * done) / whole)} %`),
  });
  process.stderr.write(`\r${session.position} tokens in ${session.bytes} bytes\n`);
  for await (const text of goOn(session, { maxTokens: Number(tokens) })) process.stdout.write(text);
  process.stdout.write("\n");
}
