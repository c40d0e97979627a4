#!/usr/bin/env node
/** `memformer <command>`. Exit codes: 0; 1 for a failure that is told; 2 for misuse; 129, 130 and 143 for signals. */
import { readFileSync } from "node:fs";
import { CommanderError, InvalidArgumentError, Command } from "commander";
import { isMemformerError } from "../errors.ts";
import { requireWorkingFolder } from "../native/working-folder.ts";
import { withNewFlag } from "./old-flags.ts";
import { silenceLostStreams } from "./output.ts";

type Load = () => Promise<{ readonly register: (program: Command) => void }>;

/** In the order of the help. */
const commands: Readonly<Record<string, Load>> = {
  doctor: async () => import("./doctor.ts"),
  setup: async () => import("./setup.ts"),
  build: async () => import("./build.ts"),
  train: async () => import("./train.ts"),
  evaluate: async () => import("./evaluate.ts"),
  diagnose: async () => import("./diagnose.ts"),
  experiment: async () => import("./experiment.ts"),
  generate: async () => import("./generate.ts"),
  serve: async () => import("./serve.ts"),
  import: async () => import("./import.ts"),
  inspect: async () => import("./inspect.ts"),
};

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};
const program = new Command("memformer");
program
  .description("a transformer with a memory of constant size, trained by memory replay back-propagation")
  .version(version)
  .enablePositionalOptions()
  .hook("preAction", requireWorkingFolder)
  .configureOutput({
    outputError: (text, write) => {
      write(withNewFlag(text, program, process.argv.slice(2)).replace(/^error: /, "memformer: "));
    },
  })
  .exitOverride();
for (const load of wanted(process.argv[2])) (await load()).register(program);

silenceLostStreams();

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}

/**
 * The command that is named, for all of them take longer to load; all where help or a suggestion may be wanted.
 */
function wanted(first = ""): readonly Load[] {
  if (first === "--version" || first === "-V") return [];
  return Object.hasOwn(commands, first) ? [commands[first]!] : Object.values(commands);
}

/** Tells what went wrong, unless commander has. */
function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError && !(error instanceof InvalidArgumentError)) return error.exitCode === 0 ? 0 : 2;
  const { message, stack } = error as Error;
  const debug = Boolean(process.env["MEMFORMER_DEBUG"]);
  if (error instanceof InvalidArgumentError) process.stderr.write(`memformer: ${message}\n`);
  else if (isMemformerError(error))
    process.stderr.write(`memformer: ${message}\n${error.code}\n${debug ? `${stack}\n` : ""}`);
  else process.stderr.write(`memformer: ${stack ?? String(error)}\n`);
  const misuse =
    error instanceof InvalidArgumentError || (isMemformerError(error) && error.code === "ERR_MEMFORMER_CONFIG");
  return misuse ? 2 : 1;
}
