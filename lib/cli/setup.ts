import type { Command } from "commander";
import { reportTo } from "../native/libtorch/report.ts";
import { setup } from "../native/libtorch/setup.ts";

interface Options {
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
    .description("fetch LibTorch once, into the cache (by URL, else through pip, or from a file)")
    .option("--version <version>", "LibTorch's version; default: the pinned one")
    .option("--from <file>", "a torch wheel or an official LibTorch zip on this machine")
    .option("--mirror <url>", "folder that holds the pinned file")
    .option("--force", "fetch again even if it is there")
    .option("--json", "print the result as JSON on stdout")
    .action(async ({ json, ...options }: Options) => {
      const result = await setup({ ...options, report: reportTo(process.stderr) });
      const { folder, version, variant, fetched, pinned, source } = result;
      const hash = pinned ? "pinned hash" : "hash not pinned";
      const where = `LibTorch ${version} (${variant}) ${fetched ? "is now" : "was already"} in ${folder}`;
      const text = `${where}\n  from ${source} (${hash})`;
      process.stdout.write(`${json === true ? JSON.stringify(result) : text}\n`);
    });
}
