/** A process' place among the ranks that train together: given, or from the variables that launchers set. */
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { deviceName, type DeviceName } from "../native/cuda.ts";
import { checkOptions, optionSchema } from "../options.ts";

/** Where a process stands among the ranks, where they meet, and how patient they are. */
export interface JoinOptions {
  /** This process' number, 0 <= rank < world. Default: RANK, or SLURM_PROCID. */
  readonly rank?: number;
  /** How many ranks there are. Default: WORLD_SIZE, or SLURM_STEP_NUM_TASKS. */
  readonly world?: number;
  /** Its number among the ranks of this host. Default: LOCAL_RANK, or SLURM_LOCALID, or the rank. */
  readonly localRank?: number;
  /** The host of rank 0, as the others reach it. Default: MASTER_ADDR. */
  readonly address?: string;
  /** A free port of that host. Default: MASTER_PORT, or 29500. */
  readonly port?: number;
  /**
   * Where gradients lie: "cpu" reduces over Gloo, a GPU over NCCL. "cuda" is the GPU of this rank's number on its host,
   * "auto" that where there is one. Default "cpu".
   */
  readonly device?: DeviceName;
  /** Seconds until all have joined and the first reduction is through. Default 300. */
  readonly startLimit?: number;
  /** Seconds that any later reduction may take. Default 100. */
  readonly limit?: number;
  /** Seconds without a sign of life after which a rank counts as gone. Default 20; a sign comes every tenth of it. */
  readonly silence?: number;
}

/** Complete: what a launcher's variables and the options come to. */
export interface Membership extends Required<JoinOptions> {
  /** Whether this process opens the store: rank 0, unless its launcher has. */
  readonly hostsStore: boolean;
  /** Whether the launcher has opened the store, as torchrun does. */
  readonly launcherStore: boolean;
  /** Begins every key in the store: it differs where a launcher starts the ranks again over the same store. */
  readonly prefix: string;
}

const schema = optionSchema<JoinOptions>({
  rank: z.int().nonnegative().optional(),
  world: z.int().positive().optional(),
  localRank: z.int().nonnegative().optional(),
  address: z.string().min(1).optional(),
  port: z.int().min(1).max(65535).optional(),
  device: deviceName.optional(),
  startLimit: z.number().positive().optional(),
  limit: z.number().positive().optional(),
  silence: z.number().positive().optional(),
});

const defaults = {
  address: "127.0.0.1",
  port: 29500,
  device: "cpu" as const,
  startLimit: 300,
  limit: 100,
  silence: 20,
};

type Variables = Readonly<Record<string, string | undefined>>;

const worldNames = ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"];

/**
 * How many ranks a launcher has started, by its variables; undefined where none has. Slurm's number of tasks alone is
 * not enough: a batch script has it too, which is one process.
 */
export function launchedWorld(variables: Variables = process.env): number | undefined {
  return numberOf(variables, "WORLD_SIZE") ?? numberOf(variables, "SLURM_STEP_NUM_TASKS");
}

/**
 * The place of this process: `options`, else the variables of torchrun (and Kubeflow), else Slurm's. Throws
 * MemformerError CONFIG for an unknown option, for one out of range, and for a variable that is missing or not a
 * number.
 */
export function membershipOf(options: JoinOptions = {}, variables: Variables = process.env): Membership {
  checkOptions(schema, options, "join");
  const number = (name: keyof JoinOptions, names: readonly string[], fallback?: number): number => {
    const given = options[name] as number | undefined;
    const found = given ?? names.map((variable) => numberOf(variables, variable)).find((value) => value !== undefined);
    if (found !== undefined) return found;
    if (fallback !== undefined) return fallback;
    throw new MemformerError(
      "CONFIG",
      `join: there is no ${name}: start the process with torchrun, Slurm or memformer train, set ${names.join(" or ")}, or pass it`,
      { details: { option: name, variables: names } },
    );
  };
  const world = number("world", worldNames),
    rank = number("rank", ["RANK", "SLURM_PROCID"]);
  if (rank >= world)
    throw new MemformerError("CONFIG", `join: rank must be below world ${world}, got ${rank}`, {
      details: { rank, world },
    });
  const address = options.address ?? variables["MASTER_ADDR"];
  if (
    address === undefined &&
    world > 1 &&
    variables["SLURM_NNODES"] !== undefined &&
    variables["SLURM_NNODES"] !== "1"
  )
    throw new MemformerError(
      "CONFIG",
      "join: MASTER_ADDR is not set: on several hosts, set it to the first of `scontrol show hostnames`",
    );
  const launcherStore = variables["TORCHELASTIC_USE_AGENT_STORE"] === "True";
  return {
    ...defaults,
    ...options,
    rank,
    world,
    localRank: number("localRank", ["LOCAL_RANK", "SLURM_LOCALID"], rank),
    address: address ?? defaults.address,
    port: number("port", ["MASTER_PORT"], defaults.port),
    hostsStore: rank === 0 && !launcherStore,
    launcherStore,
    prefix: `memformer/${variables["TORCHELASTIC_RUN_ID"] ?? "run"}/${variables["TORCHELASTIC_RESTART_COUNT"] ?? "0"}`,
  };
}

function numberOf(variables: Variables, name: string): number | undefined {
  const text = variables[name];
  if (text === undefined || text === "") return undefined;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0)
    throw new MemformerError("CONFIG", `join: ${name} must be a whole number, got "${text}"`, {
      details: { variable: name, found: text },
    });
  return value;
}
