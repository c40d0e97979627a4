/** What a flag of an older name means now. */
import type { Command } from "commander";
import { flagName } from "../run/flags.ts";
import { oldNames } from "../old-names.ts";

const suggestions = new Map<string, string>(
  Object.entries(oldNames).map(([old, now]) => [`--${flagName(old)}`, `--${flagName(now)}`]),
);

/**
 * Commander's message, with the flag of today for an unknown one of an older name, if the command that `args` name has
 * it: no spelling is near to it.
 */
export function withNewFlag(text: string, program: Command, args: readonly string[]): string {
  const [, flag = ""] = /unknown option '(--[\w-]+)/.exec(text) ?? [],
    now = suggestions.get(flag);
  const command = program.commands.find((one) => one.name() === args[0]);
  if (now === undefined || !command?.options.some((option) => option.long === now)) return text;
  return `${text.split("\n")[0]}\n(Did you mean ${now}?)\n`;
}
