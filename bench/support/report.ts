/** Tables on the terminal, and the same rows in a file with what they were measured on. */
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { configureRuntime } from "../../lib/index.ts";

export { median, quartiles } from "../../lib/diagnose/statistics.ts";

export type Row = Readonly<Record<string, string | number>>;

/** What a number was measured on. */
export function machine(): Record<string, string | number> {
  const { libtorch, threads } = configureRuntime();
  const git = (...args: string[]): string => {
    try {
      return execFileSync("git", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    } catch {
      return "";
    }
  };
  return {
    processor: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    threads,
    node: process.version,
    libtorch,
    commit:
      process.env["MEMFORMER_COMMIT"] ??
      `${git("rev-parse", "--short", "HEAD")}${git("status", "--porcelain", "--", "lib", "native") === "" ? "" : "+changes"}`,
    date: new Date().toISOString().slice(0, 10),
  };
}

/** Prints the rows as a table, in Markdown, and writes bench/results/`name`.json. */
export function report(name: string, title: string, rows: readonly Row[], facts: Row = {}): void {
  const keys = Object.keys(rows[0] ?? {});
  const lines = [keys, keys.map(() => "---"), ...rows.map((row) => keys.map((key) => String(row[key])))];
  const measuredOn = { ...machine(), ...facts };
  console.log(
    `\n${title}\n${Object.entries(measuredOn)
      .map(([key, value]) => `${key} ${value}`)
      .join(" · ")}\n`,
  );
  for (const line of lines) console.log(`| ${line.join(" | ")} |`);
  const folder = new URL("../results/", import.meta.url);
  mkdirSync(folder, { recursive: true });
  writeFileSync(new URL(`${name}.json`, folder), `${JSON.stringify({ title, measuredOn, rows }, null, 2)}\n`);
}

/** The value after `--name`, as a number. Throws for anything else. */
export function flag(flags: readonly string[], name: string, fallback: number): number {
  const at = flags.indexOf(`--${name}`);
  if (at < 0) return fallback;
  const value = Number(flags[at + 1]);
  if (!Number.isFinite(value)) throw new TypeError(`--${name} needs a number, got ${flags[at + 1] ?? "nothing"}`);
  return value;
}

/** The values after `--name`, separated by commas, whatever they are. */
export function words(flags: readonly string[], name: string, fallback: readonly string[]): readonly string[] {
  const at = flags.indexOf(`--${name}`);
  if (at < 0) return fallback;
  const given = flags[at + 1];
  if (given === undefined || given.startsWith("--")) throw new TypeError(`--${name} needs a value`);
  return given.split(",");
}

/** The value after `--name`, which may hold commas. */
export function wholeWord(flags: readonly string[], name: string, fallback: string): string {
  return words(flags, name, [fallback]).join(",");
}

/** The values after `--name`, separated by commas. Throws for one that is not in `known`. */
export function choice<T extends string>(
  flags: readonly string[],
  name: string,
  known: readonly T[],
  fallback: readonly T[],
): readonly T[] {
  const at = flags.indexOf(`--${name}`);
  if (at < 0) return fallback;
  const given = (flags[at + 1] ?? "").split(",");
  const unknown = given.find((value) => !known.includes(value as T));
  const few = known.length > 8 ? `${known[0]} to ${known.at(-1)}` : known.join(", ");
  if (unknown !== undefined) throw new TypeError(`--${name} takes ${few}, separated by commas, got "${unknown}"`);
  return given as T[];
}
