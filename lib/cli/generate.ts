/**
 * `memformer generate`: a prompt of any length in, its continuation out, piece by piece; sessions in and out of files.
 */
import { readFile } from "node:fs/promises";
import { InvalidArgumentError, type Command } from "commander";
import { z } from "zod";
import { textPieces } from "../data/whole-text.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { Session } from "../generate/session.ts";
import type { SessionModel } from "../generate/session-model.ts";
import { withIoErrors } from "../io-error.ts";
import { findModel, modelName, openModel } from "../run/run-folder.ts";
import { addOptions } from "./options.ts";
import { print } from "./output.ts";
import { runSchema } from "../run/config.ts";

const inputSchema = z.strictObject({
  prompt: z.string().optional().describe("the text to continue; - reads standard input; default: none"),
  promptFile: z.string().optional().describe("a file with the text to continue: UTF-8, plain or gzipped"),
  session: z.string().optional().describe("go on with the session in this file; the prompt continues it"),
  save: z.string().optional().describe("write the session to this file at the end"),
  // A model knows its own tokenizer.
  tokenizer: z.string().optional().describe(runSchema.shape.tokenizer.description!),
  device: runSchema.shape.device,
  threads: runSchema.shape.threads,
});
const drawSchema = z.strictObject({
  maxTokens: z.int().nonnegative().default(256).describe("most tokens to generate"),
  stop: z.array(z.string().min(1)).optional().describe("end before this text appears"),
  temperature: z.number().nonnegative().default(0.8).describe("softmax temperature; 0: always the likeliest token"),
  topK: z.int().positive().optional().describe("draw from the k likeliest tokens only; default: all"),
  topP: z
    .number()
    .positive()
    .max(1)
    .default(1)
    .describe("draw from the likeliest tokens that together hold this share of the probability"),
  minP: z.number().min(0).max(1).default(0).describe("draw from tokens at least this share as likely as the likeliest"),
  repetitionPenalty: z
    .number()
    .positive()
    .default(1)
    .describe("divide the positive logits of the latest tokens by it, multiply the negative ones; 1: nothing"),
  repetitionWindow: z.int().nonnegative().default(64).describe("how many of the latest tokens that concerns"),
  seed: z
    .int()
    .nonnegative()
    .optional()
    .describe("decides what is drawn; default: a new one each time, printed on stderr"),
  logprobs: z
    .int()
    .nonnegative()
    .optional()
    .describe("with --json: log-probabilities of the tokens, and of so many of the likeliest in their place"),
});
const outputSchema = z.strictObject({
  json: z
    .boolean()
    .default(false)
    .describe("print a line of JSON per piece: its text, its tokens, and why it is the last"),
});

/** Adds `memformer generate`. */
export function register(program: Command): void {
  const command = program
    .command("generate")
    .description("continue a text, carrying the memory from segment to segment")
    .argument("<folder>", "a model, a checkpoint or a run");
  addOptions(command, inputSchema, "Input and output");
  addOptions(command, outputSchema, "Input and output");
  addOptions(command, drawSchema, "Drawing");
  command.action(async (path: string, flags: Record<string, unknown>) => {
    const given = z.strictObject({ ...inputSchema.shape, ...outputSchema.shape, ...drawSchema.shape }).parse(flags);
    const { prompt, promptFile, session: from, save, tokenizer, device, threads, json, ...options } = given;
    if (prompt !== undefined && promptFile !== undefined)
      throw new InvalidArgumentError("--prompt and --prompt-file exclude each other");
    if (options.logprobs !== undefined && !json) throw new InvalidArgumentError("--logprobs needs --json");
    const found = await findModel(path);
    const opened = await openModel(found.folder, { tokenizer, device, threads });
    process.stderr.write(`${modelName(found)}\n`);
    await using model = opened.model;
    using session = await sessionOf(model, opened.tokenizer, from);
    if (promptFile !== undefined) await session.read(textPieces(promptFile));
    else if (prompt === "-") await session.read(textPieces("the standard input", process.stdin));
    else if (prompt !== undefined) await session.read(prompt);
    let read = true; // whether somebody reads what is printed
    try {
      for await (const { text, tokens, finish, stop } of session.generatePieces(options)) {
        const line = json ? `${JSON.stringify({ text, tokens, finish, ...(stop !== undefined && { stop }) })}\n` : text;
        if (line !== "") read = await print(line);
        if (!read) break;
      }
      if (read && !json) await print("\n");
      if (save !== undefined) await write(save, await session.save());
    } finally {
      const drawn = options.maxTokens > 0 && options.temperature > 0 && session.lastSeed !== undefined;
      if (options.seed === undefined && drawn) process.stderr.write(`Drawn with --seed ${session.lastSeed}\n`);
    }
  });
}

async function sessionOf<Model extends SessionModel>(
  model: Model,
  tokenizer: Parameters<typeof Session.open>[1] & object,
  file: string | undefined,
): Promise<Session<Model>> {
  if (file === undefined) return Session.open(model, tokenizer);
  const bytes = await withIoErrors("read", file, async () => readFile(file));
  return Session.restore(model, bytes, tokenizer);
}

async function write(file: string, bytes: Uint8Array): Promise<void> {
  await withIoErrors("write", file, async () =>
    writeFileAtomic(file, async (handle) => {
      await handle.writeFile(bytes);
    }),
  );
}
