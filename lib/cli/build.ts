import { InvalidArgumentError, type Command } from "commander";
import { buildNative } from "../toolchain/build.ts";
import { reportTo } from "../toolchain/libtorch/report.ts";

interface Options {
  readonly libtorch?: string;
  readonly jobs?: number;
  readonly debug?: boolean;
  readonly out?: string;
}

function wholeNumber(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("Expected a whole number from 1 up.");
  return Number(text);
}

/** Adds `memformer build`. */
export function register(program: Command): void {
  program
    .command("build")
    .description("compile the native addon against LibTorch")
    .option("--libtorch <dir>", "a LibTorch folder, or the word python; default: the one that is found")
    .option("--jobs <n>", "compilations at a time; default: one a core, as far as memory reaches", wholeNumber)
    .option("--debug", "without optimisation, with assertions")
    .option("--out <dir>", "CMake's folder; default: out/<variant> in the package")
    .action(async (options: Options) => {
      const { folder, seconds } = await buildNative({ ...options, report: reportTo(process.stderr) });
      process.stdout.write(`Built in ${seconds.toFixed(0)} s: ${folder}\n`);
    });
}
