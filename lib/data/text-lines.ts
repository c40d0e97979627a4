import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { pipeline, type Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { MemformerError } from "../errors.ts";
import { holdsNul, toldByBytes, toldByStart } from "./not-text.ts";

/** Bytes read of files on disk, and their size. */
export interface ReadCounter {
  read: number;
  readonly size: number;
}

/** The most text one document may hold: it is tokenized in one go. */
export const longestDocument = 1 << 28;

/**
 * The lines of a UTF-8 text file, plain or gzipped (told by its first bytes), each with its line end, in batches as
 * they come from the disk. A byte order mark is dropped. With `mark`, lines that follow one another stay in one string
 * up to the next line that begins with it.
 * @throws MemformerError `IO` if the file cannot be read, `DATA` if it is not UTF-8, or a line exceeds 2^28 characters.
 */
export async function* readLines(path: string, counter?: ReadCounter, mark = ""): AsyncGenerator<string[], void, void> {
  let rest: string[] = []; // the pieces of an unfinished line
  let restLength = 0;
  for await (const text of readText(path, counter)) {
    const ended = text.lastIndexOf("\n") + 1;
    const lines = linesOf(text.slice(0, ended), mark),
      open = text.slice(ended);
    if (lines.length > 0) {
      lines[0] = rest.join("") + lines[0]!;
      [rest, restLength] = [[], 0];
      yield lines;
    }
    rest.push(open);
    restLength += open.length;
    if (restLength > longestDocument) throw tooLong(path);
  }
  const last = rest.join("");
  if (last !== "") yield [last];
}

/** Text cut behind each line feed that `mark` follows. */
function linesOf(text: string, mark: string): string[] {
  const lines: string[] = [],
    end = `\n${mark}`;
  let from = 0;
  for (let at = text.indexOf(end); at >= 0; at = text.indexOf(end, from)) {
    lines.push(text.slice(from, at + 1));
    from = at + 1;
  }
  if (from < text.length) lines.push(text.slice(from));
  return lines;
}

/**
 * The text of a file, plain or gzipped, in chunks that never split a character. `bytes`: what is read instead of the
 * file, which `path` then names in messages.
 * @throws MemformerError `IO` if it cannot be read; `DATA`, with what it is instead and a remedy, if it is not UTF-8
 * text: UTF-16, another encoding, compressed otherwise, or binary (it holds a NUL).
 */
export async function* readText(
  path: string,
  counter?: ReadCounter,
  bytes: AsyncIterable<Uint8Array> = readBytes(path, counter),
): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const refuse = (what: string, cause?: unknown): never => {
    throw new MemformerError("DATA", `${path} ${what}.`, { cause, details: { path } });
  };
  const decode = (chunk?: Uint8Array): string => {
    try {
      return chunk ? decoder.decode(chunk, { stream: true }) : decoder.decode();
    } catch (cause) {
      return refuse(toldByStart(start!, false) ?? toldByBytes(chunk ?? new Uint8Array(0), chunk === undefined), cause);
    }
  };
  let start: Uint8Array | undefined;
  for await (const chunk of bytes) {
    const told = start === undefined ? toldByStart(chunk) : undefined;
    if (told !== undefined) refuse(told);
    start ??= chunk.slice(0, 16);
    const text = decode(chunk);
    if (text.includes("\0")) refuse(toldByStart(start, false) ?? holdsNul);
    if (text !== "") yield text;
  }
  const last = decode();
  if (last !== "") yield last;
}

/** The bytes of a file, gunzipped if its first two say so; `counter` counts those on disk. */
export async function* readBytes(path: string, counter?: ReadCounter): AsyncGenerator<Uint8Array, void, void> {
  try {
    const file = createReadStream(path, { highWaterMark: 1 << 18 });
    const bytes: Readable = (await isGzip(path)) ? pipeline(file, createGunzip(), () => {}) : file;
    let counted = 0;
    for await (const chunk of bytes) {
      if (counter) counter.read += file.bytesRead - counted;
      counted = file.bytesRead;
      yield chunk as Uint8Array;
    }
  } catch (cause) {
    const damaged = String((cause as NodeJS.ErrnoException).code).startsWith("Z_");
    const what = damaged ? "is damaged gzip" : "cannot be read";
    const message = `${path} ${what}: ${(cause as Error).message}`;
    throw new MemformerError(damaged ? "DATA" : "IO", message, { cause, details: { path } });
  }
}

export function tooLong(path: string): MemformerError {
  return new MemformerError(
    "DATA",
    `${path} holds a document of more than ${longestDocument} characters, which is tokenized in one go: ` +
      `split it (documents: "lines" or "headings", or a line with a form feed between documents).`,
    { details: { path } },
  );
}

async function isGzip(path: string): Promise<boolean> {
  const file = await open(path, "r");
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(2), 0, 2, 0);
    return bytesRead === 2 && buffer[0] === 0x1f && buffer[1] === 0x8b;
  } finally {
    await file.close();
  }
}
