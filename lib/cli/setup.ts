import type { Command } from "commander";
import { reportTo } from "../toolchain/libtorch/report.ts";
import { setup } from "../toolchain/libtorch/setup.ts";
import { probeLibtorch } from "../native/probe.ts";

interface Options {
  readonly variant?: string;
  readonly version?: string;
  readonly from?: string;
  readonly mirror?: string;
  readonly force?: boolean;
  readonly json?: boolean;
}

/** Adds `memformer setup`. */
export function register(program: Command): void {
  program
    .command("setup")
    .description("fetch LibTorch into the cache (by URL, else through pip, or from files)")
    .option("--variant <variant>", "cpu, or a CUDA version such as cu130; default: cpu, or that of the file")
    .option("--version <version>", "LibTorch's version; default: the one pinned for the variant")
    .option(
      "--from <path>",
      "a torch wheel, an official LibTorch zip, or a folder of a CUDA wheel and the libraries it names",
    )
    .option("--mirror <url>", "folder that holds the pinned files")
    .option("--force", "fetch again even if it is already there")
    .option("--json", "print the result as JSON on stdout")
    .action(async ({ json, ...options }: Options) => {
      const result = await setup({ ...options, report: reportTo(process.stderr), testLoad: probeLibtorch });
      const { folder, version, variant, fetched, pinned, source } = result;
      const hash = pinned ? "pinned hash" : "hash not pinned";
      const where = `LibTorch ${version} (${variant}) ${fetched ? "is now" : "was already"} in ${folder}`;
      const text = `${where}\n  from ${source} (${hash})`;
      process.stdout.write(`${json === true ? JSON.stringify(result) : text}\n`);
    });
}
