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
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("expected a whole number of at least 1");
  return Number(text);
}

/** Adds `memformer build`. */
export function register(program: Command): void {
  program
    .command("build")
    .description("compile the native addon against LibTorch")
    .option("--libtorch <dir>", "a LibTorch folder, or the word python; default: the one found")
    .option("--jobs <n>", "compilations at a time; default: one per core, as far as memory allows", wholeNumber)
    .option("--debug", "build without optimization, with assertions")
    .option("--out <dir>", "CMake's folder; default: out/<variant> in the package")
    .action(async (options: Options) => {
      const { folder, seconds } = await buildNative({ ...options, report: reportTo(process.stderr) });
      process.stdout.write(`Built in ${seconds.toFixed(0)} s: ${folder}\n`);
    });
}
