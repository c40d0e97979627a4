/** Ranks as processes of their own, on this machine, and what they said. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import {
  openTokenizer,
  plainOptions,
  tokensInMemory,
  TokenStream,
  type CreateOptions,
  type distributed,
  type Evaluation,
  type TokenSource,
  type TrainOptions,
} from "../../lib/index.ts";
import type { Scored } from "../../lib/evaluate/source.ts";
import { freePort } from "../../lib/distributed/launch.ts";
import { loader, programOf } from "./compiled.ts";

/** A model that ranks are started with again and again. */
export const rankModel = {
  preset: "tiny",
  ...plainOptions,
  vocabulary: 257,
  bos: 256,
  width: 16,
  heads: 2,
  feedForward: 24,
  memorySlots: 3,
  segmentLength: 6,
} as const;

/** How it is trained where nothing else is asked: every step is a sum over windows. */
export const rankTrain: TrainOptions = {
  steps: 50,
  horizon: 3,
  accumulate: 2,
  learningRate: 1e-3,
  schedule: "constant",
  warmup: 0,
};

/** One pass over the ragged text; `spoiled`: the rank whose weights are not numbers. */
export interface EvaluationJob {
  readonly model: CreateOptions;
  readonly segments?: number;
  readonly spoiled?: number;
}

/** What every rank does. */
export interface RankJob {
  readonly model: CreateOptions;
  readonly train: TrainOptions;
  /** Of all ranks. */
  readonly lanes: number;
  readonly join?: distributed.JoinOptions;
  readonly checkpoints?: string;
  readonly resume?: boolean;
  /** Bytes of moments that rank 0 asks for at a time. */
  readonly part?: number;
  readonly evaluates?: boolean;
  /** The rank whose first evaluation fails. */
  readonly evaluationFails?: number;
  /** Scores the ragged text by models of these options, one after the other, instead of training. */
  readonly evaluations?: readonly EvaluationJob[];
  /** Prints gradients instead of training. */
  readonly gradient?: boolean;
  /** Without a group. */
  readonly alone?: boolean;
  /** Each rank on the GPU of its number on this host; else on the CPU. */
  readonly gpus?: boolean;
  /** Which rank asks for the end after which step; which one changes its weights. */
  readonly stopAt?: { readonly rank: number; readonly step: number };
  readonly spoilAt?: { readonly rank: number; readonly step: number };
}

export interface RankStep {
  readonly step: number;
  readonly loss: number;
  readonly gradientNorm: number;
  readonly memoryGradientNorm: number;
  readonly tokens: number;
}

export interface RankError {
  readonly code: string;
  readonly message: string;
  readonly details?: {
    readonly rank: number;
    readonly peer?: number;
    readonly step: number;
    readonly collective: string;
  };
}

/** How a rank ended. */
export interface RankEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly steps: RankStep[];
  readonly weights?: string;
  /** Bytes that tensors hold at the end, and how many numbers are learned. */
  readonly hostBytes?: number;
  readonly parameters?: number;
  readonly gradient?: Readonly<Record<string, string>>;
  readonly evaluations?: readonly (Evaluation & Scored)[];
  readonly error?: RankError;
  readonly stderr: string;
  /** Seconds from `since`, or from its start. */
  readonly seconds: number;
}

export interface Rank {
  readonly process: ChildProcess;
  /** Resolves once it has made that step. */
  reached(step: number): Promise<void>;
  readonly ended: Promise<RankEnd>;
}

/** Documents of every length from 1 to 40 tokens, cut into segments of 6: rows are padded and reset at any place. */
export function raggedStream(lanes: number): TokenStream {
  return new TokenStream(ragged, { lanes, segmentLength: 6, seed: 3 });
}

const tokenizer = await openTokenizer("bytes");
export const ragged: TokenSource = tokensInMemory(
  Array.from({ length: 40 }, (_, n) => Int32Array.from({ length: n + 1 }, (_token, i) => (7 * n + 3 * i) % 28)),
  tokenizer,
);

/** `inside`: a command that runs the rest of its line somewhere, such as `ip netns exec NAME`. */
export function startRank(job: RankJob, env: NodeJS.ProcessEnv, inside: readonly string[] = []): Rank {
  const began = performance.now();
  const [command, ...args] = [...inside, process.execPath, "--expose-gc", ...loader, programOf("rank-process")];
  const child = spawn(command, [...args, JSON.stringify(job)], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, OMP_NUM_THREADS: "1", NODE_NO_WARNINGS: "1", ...env },
  });
  const steps: RankStep[] = [],
    waiting: (() => void)[] = [];
  let last: Partial<RankEnd> = {},
    stderr = "";
  child.stderr.on("data", (piece) => (stderr += String(piece)));
  createInterface(child.stdout).on("line", (line) => {
    const said = JSON.parse(line) as RankStep & Partial<RankEnd>;
    if (typeof said.loss === "number") steps.push(said);
    else last = { ...last, ...said };
    for (const wake of waiting.splice(0)) wake();
  });
  const end = (): void => {
    child.kill("SIGKILL");
  };
  process.once("exit", end); // whatever becomes of the test
  child.once("exit", () => process.off("exit", end));
  const ended = once(child, "close").then(([code, signal]): RankEnd => {
    for (const wake of waiting.splice(0)) wake();
    const seconds = (performance.now() - began) / 1000;
    return { ...last, code: code as number | null, signal: signal as NodeJS.Signals | null, steps, stderr, seconds };
  });
  let over = false;
  void ended.then(() => (over = true));
  return {
    process: child,
    ended,
    async reached(step) {
      while (!steps.some((one) => one.step >= step)) {
        if (over) throw new Error(`the rank ended before step ${step}: ${JSON.stringify(last)} ${stderr}`);
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
    },
  };
}

/** Starts `world` ranks with the variables that torchrun sets; `differs`: what one of them does otherwise. */
export async function startRanks(
  world: number,
  job: RankJob,
  differs: (rank: number) => Partial<RankJob> = () => ({}),
): Promise<Rank[]> {
  const port = await freePort();
  return Array.from({ length: world }, (_, rank) =>
    startRank({ ...job, ...differs(rank) }, ranksEnvironment(rank, world, port)),
  );
}

export function ranksEnvironment(rank: number, world: number, port: number, address = "127.0.0.1"): NodeJS.ProcessEnv {
  return {
    RANK: String(rank),
    LOCAL_RANK: String(rank),
    WORLD_SIZE: String(world),
    MASTER_ADDR: address,
    MASTER_PORT: String(port),
  };
}

/** Runs them to their ends. */
export async function runRanks(
  world: number,
  job: RankJob,
  differs?: (rank: number) => Partial<RankJob>,
): Promise<RankEnd[]> {
  const ranks = world === 0 ? [startRank({ ...job, alone: true }, {})] : await startRanks(world, job, differs);
  return Promise.all(ranks.map(async ({ ended }) => ended));
}
