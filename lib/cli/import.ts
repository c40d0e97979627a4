import type { Command } from "commander";
import { importLucidrains, importSchema, type Imported, type ImportOptions } from "../import/lucidrains.ts";
import { MemformerError } from "../errors.ts";
import { pick } from "../run/flags.ts";
import { addOptions } from "./options.ts";
import { print } from "./output.ts";
import { optionLines, table } from "./table.ts";

interface Options extends ImportOptions {
  readonly out?: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

/** Adds `memformer import`. */
export function register(program: Command): void {
  const command = program
    .command("import")
    .description("convert a checkpoint of lucidrains' memformer (PyTorch's .pt, or safetensors) into a model folder")
    .argument("<file>", "a state dict, or a file that holds one under model, state_dict or model_state_dict")
    .option("--out <folder>", "folder for the model; must not exist yet")
    .option("--dry-run", "print where each tensor goes, and write nothing")
    .option("--json", "print JSON");
  addOptions(command, importSchema, "Not in the shapes");
  command.action(async (file: string, options: Options) => {
    const { out, dryRun = false, json = false } = options;
    if (out === undefined && !dryRun)
      throw new MemformerError("CONFIG", "name a folder with --out, or look first with --dry-run");
    const imported = await importLucidrains(file, dryRun ? undefined : out, pick(importSchema, { ...options }));
    const facts = { file, ...(dryRun ? {} : { out }), ...imported };
    await print(json ? `${JSON.stringify(facts, null, 2)}\n` : show(imported, dryRun ? undefined : out));
  });
}

/** The configuration and, where nothing was written, the table of tensors. */
function show({ config, tensors, parameters }: Imported, out: string | undefined): string {
  const rows = tensors.map(({ ours, shape, theirs }) => [ours, `(${shape.join(", ")})`, theirs.join(" + ")]);
  const options = optionLines(config);
  const last = out === undefined ? "Nothing was written." : `Written to ${out}.`;
  return `${out === undefined ? `${table([["ours", "shape", "theirs"], ...rows])}\n\n` : ""}${options}\n\n${tensors.length} tensors, ${parameters} parameters. ${last}\n`;
}
