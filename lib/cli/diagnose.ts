/** `memformer diagnose`: why a model's memory is used, or is not. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { z } from "zod";
import { withIoErrors } from "../io-error.ts";
import { makeFolder } from "../files/make-folder.ts";
import { findings } from "../diagnose/findings.ts";
import { measure } from "../diagnose/measure.ts";
import { page } from "../diagnose/page.ts";
import { dataOf, dataSchema, passSchema } from "./evaluate.ts";
import { findModel, openModel, runOf } from "../run/run-folder.ts";
import { pick } from "../run/flags.ts";
import { addOptions } from "./options.ts";
import { print } from "./output.ts";
import { fromFlags, mergeSettings } from "../run/config.ts";
import { openRunData } from "../run/data.ts";

const diagnoseSchema = z.strictObject({
  split: passSchema.shape.split,
  texts: z.int().min(2).default(8).describe("texts read side by side"),
  segments: z.int().min(2).default(32).describe("segments of each"),
  out: z.string().min(1).default("diagnosis").describe("folder for diagnosis.html and diagnosis.json"),
  device: passSchema.shape.device,
  json: passSchema.shape.json,
});

/** Adds `memformer diagnose`. */
export function register(program: Command): void {
  const command = program
    .command("diagnose")
    .description("explain why a model's memory is used or not: findings in words, then numbers")
    .argument("<folder>", "a model, a checkpoint or a run; options default to what the run was given");
  addOptions(command, dataSchema.omit({ lanes: true }), "Data");
  addOptions(command, diagnoseSchema, "Diagnosis");
  command.action(async (path: string, flags: Record<string, unknown>) => {
    const { split, texts, segments, out, device, json } = diagnoseSchema.parse(pick(diagnoseSchema, flags));
    const { folder } = await findModel(path),
      before = await runOf(folder),
      { out: _, ...others } = flags,
      given = fromFlags(others);
    const { run } = mergeSettings(...(before === undefined ? [] : [dataOf(before)]), given);
    const opened = await openModel(folder, {
      tokenizer: given.run["tokenizer"] as string | undefined,
      device,
      threads: run.threads,
    });
    await using model = opened.model;
    await using data = await openRunData(run, opened.tokenizer);
    const diagnosis = await measure(model, data.split(split), { lanes: texts, segments }),
      found = findings(diagnosis);
    const facts = { model: folder, data: data.spec, split, ...found, ...diagnosis };
    await withIoErrors("write", out, async () => {
      await makeFolder(out);
      await writeFile(join(out, "diagnosis.json"), `${JSON.stringify(facts, null, 2)}\n`);
      await writeFile(join(out, "diagnosis.html"), page(folder, found, diagnosis));
    });
    await print(
      json ? `${JSON.stringify(facts, null, 2)}\n` : `${found.sentences.join("\n")}\n${join(out, "diagnosis.html")}\n`,
    );
  });
}
