import type { Command } from "commander";
import { distributedRows } from "../distributed/doctor.ts";
import { doctor, isHealthy, type Row } from "../native/doctor.ts";
import { print } from "./output.ts";

function show(rows: readonly Row[]): string {
  const width = Math.max(...rows.map(({ name }) => name.length));
  return rows
    .map(({ name, ok, found, remedy, required }) => {
      const sign = ok ? "ok" : required ? "NO" : "--";
      const line = `${sign}  ${name.padEnd(width)}  ${found}`;
      return remedy === undefined ? line : `${line}\n    ${" ".repeat(width)}  -> ${remedy}`;
    })
    .join("\n");
}

/** Adds `memformer doctor`; its exit code is 1 when something that is required is amiss. */
export function register(program: Command): void {
  program
    .command("doctor")
    .description("check what this machine has and lacks, and print the command that fixes each gap")
    .option(
      "--distributed",
      "check what several processes or hosts need too: address, port, interfaces, NCCL, a sum of two processes",
    )
    .option("--json", "print the rows as JSON")
    .action(async ({ json, distributed }: { json?: boolean; distributed?: boolean }) => {
      const rows = [...doctor(), ...(distributed === true ? await distributedRows() : [])];
      const ok = isHealthy(rows);
      const text = json === true ? JSON.stringify({ ok, rows }, null, 2) : show(rows);
      await print(`${text}\n`);
      if (!ok) process.exitCode = 1;
    });
}
