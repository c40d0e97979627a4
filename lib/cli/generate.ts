/** `memformer generate`: a prompt of any length in, its continuation out, piece by piece. */
import { InvalidArgumentError, type Command } from "commander";
import { z } from "zod";
import { readWholeText } from "../data/whole-text.ts";
import { Session } from "../generate/session.ts";
import { findModel, modelName, openModel } from "../run/run-folder.ts";
import { addOptions } from "./options.ts";
import { print } from "./output.ts";
import { runSchema } from "../run/config.ts";

const generateSchema = z.strictObject({
  prompt: z.string().optional().describe("the text to continue; - reads standard input; default: none"),
  promptFile: z.string().optional().describe("a file with the text to continue: UTF-8, plain or gzipped"),
  maxTokens: z.int().positive().default(256).describe("most tokens to generate"),
  temperature: z.number().nonnegative().default(0.8).describe("softmax temperature; 0: always the likeliest token"),
  topK: z.int().positive().optional().describe("draw from the k likeliest tokens only; default: all"),
  topP: z
    .number()
    .positive()
    .max(1)
    .default(1)
    .describe("draw from the likeliest tokens that together hold this share of the probability"),
  seed: z
    .int()
    .nonnegative()
    .optional()
    .describe("decides what is drawn; default: a new one each time, printed on stderr"),
  // A model knows its own tokenizer.
  tokenizer: z.string().optional().describe(runSchema.shape.tokenizer.description!),
  device: runSchema.shape.device,
  threads: runSchema.shape.threads,
});

/** Adds `memformer generate`. */
export function register(program: Command): void {
  const command = program
    .command("generate")
    .description("continue a text, carrying the memory from segment to segment")
    .argument("<folder>", "a model, a checkpoint or a run");
  addOptions(command, generateSchema, "Options");
  command.action(async (path: string, flags: Record<string, unknown>) => {
    const { prompt, promptFile, tokenizer, device, threads, ...options } = generateSchema.parse(flags);
    if (prompt !== undefined && promptFile !== undefined)
      throw new InvalidArgumentError("--prompt and --prompt-file exclude each other");
    const before =
      promptFile !== undefined
        ? await readWholeText(promptFile)
        : prompt === "-"
          ? await readWholeText("the standard input", process.stdin)
          : (prompt ?? "");
    const found = await findModel(path);
    const opened = await openModel(found.folder, { tokenizer, device, threads });
    process.stderr.write(`${modelName(found)}\n`);
    await using model = opened.model;
    using session = await Session.open(model, opened.tokenizer);
    await session.read(before);
    try {
      for await (const piece of session.generate(options)) if (!(await print(piece))) return;
      await print("\n");
    } finally {
      const told = options.seed === undefined && options.temperature > 0 && session.lastSeed !== undefined;
      if (told) process.stderr.write(`Drawn with --seed ${session.lastSeed}\n`);
    }
  });
}
