#!/usr/bin/env node
/** `memformer <command>`. Exit codes: 0; 1 for a failure that is told; 2 for misuse; 129, 130 and 143 for signals. */
import { readFileSync } from "node:fs";
import { CommanderError, InvalidArgumentError, Command } from "commander";
import { isMemformerError } from "../errors.ts";
import { requireWorkingFolder } from "../native/working-folder.ts";
import { register as build } from "./build.ts";
import { register as diagnose } from "./diagnose.ts";
import { register as doctor } from "./doctor.ts";
import { register as evaluate } from "./evaluate.ts";
import { register as experiment } from "./experiment.ts";
import { register as generate } from "./generate.ts";
import { register as importModel } from "./import.ts";
import { register as inspect } from "./inspect.ts";
import { withNewFlag } from "./old-flags.ts";
import { silenceLostStreams } from "./output.ts";
import { register as serve } from "./serve.ts";
import { register as setup } from "./setup.ts";
import { register as train } from "./train.ts";

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
for (const register of [
  doctor,
  setup,
  build,
  train,
  evaluate,
  diagnose,
  experiment,
  generate,
  serve,
  importModel,
  inspect,
])
  register(program);

silenceLostStreams();

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
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
