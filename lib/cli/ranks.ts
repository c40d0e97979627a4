/** A command that several processes of this machine, or of a launcher's, run together. */
import { InvalidArgumentError, Option, type Command } from "commander";
import { join } from "../distributed/index.ts";
import type { Group } from "../distributed/group.ts";
import { endWithLauncher, launch } from "../distributed/launch.ts";
import { launchedWorld } from "../distributed/membership.ts";
import { configureRuntime } from "../engine/runtime.ts";
import type { RunSettings } from "../run/config.ts";

/** What the options of {@link addRanksOptions} hold. */
export interface RanksFlags {
  readonly gpus?: number | undefined;
  readonly processes?: number | undefined;
}

/** Adds `--gpus` and `--processes`; `what`: what the processes do, "train" say, and share out, "the lanes". */
export function addRanksOptions(command: Command, [verb, shared]: readonly [string, string]): void {
  command
    .addOption(ranksOption("gpus", `${verb} on so many GPUs of this machine, a process each, which share ${shared}`))
    .addOption(
      ranksOption(
        "processes",
        `${verb} in so many processes on the CPU of this machine, which share ${shared}`,
      ).conflicts("gpus"),
    );
}

/** Whether this process is one of several that a launcher has started. */
export function isRank(): boolean {
  return (launchedWorld() ?? 1) > 1;
}

/**
 * Starts the ranks that are asked for, unless this is one; undefined where it is, or none are: what follows is its own.
 */
export async function launchRanks({ gpus, processes }: RanksFlags): Promise<number | undefined> {
  const count = gpus ?? processes ?? 1;
  if (isRank()) endWithLauncher();
  return isRank() || count === 1 ? undefined : launch(count, process.argv.slice(1));
}

/** This process' place among those that a launcher has started. */
export async function joinRanks({ device, threads }: Pick<RunSettings["run"], "device" | "threads">): Promise<Group> {
  configureRuntime({ threads });
  return join({ device });
}

/** What `open` gives, on every rank; one process a host does it first, and the others find its work done. */
export async function onceAHost<Value>(
  group: Group | undefined,
  name: string,
  open: () => Promise<Value>,
): Promise<Value> {
  if (group !== undefined && group.localRank > 0) await group.barrier(name);
  const value = await open();
  if (group?.localRank === 0) await group.barrier(name);
  return value;
}

function ranksOption(name: string, help: string): Option {
  return new Option(`--${name} <n>`, help).argParser((text: string) => {
    const count = Number(text);
    if (!Number.isInteger(count) || count < 1) throw new InvalidArgumentError("expected a whole number of at least 1");
    return count;
  });
}
