/** What a body of /v1/completions asks for, by the names of the library. */
import { createHash } from "node:crypto";
import { isMemformerError } from "../../errors.ts";
import { checkTokens } from "../../generate/read-input.ts";
import { banned } from "../routes/generate.ts";
import { ServiceError } from "../service-error.ts";
import type { TurnInput } from "../turn-run.ts";
import type { CompletionBody } from "./completion-schema.ts";

/** A text, or tokens. */
export type Prompt = string | readonly number[];

export interface CompletionRequest {
  readonly prompts: readonly Prompt[];
  /** Choices for each. */
  readonly n: number;
  readonly echo: boolean;
  readonly logprobs: number | undefined;
  readonly seed: number | undefined;
  /** Of every turn; without input and seed. */
  readonly options: Omit<TurnInput, "input" | "seed" | "signal">;
  readonly session: string | undefined;
}

/** Throws ServiceError invalid_request for what the schema cannot know. */
export function completionRequest(body: CompletionBody, vocabulary: number): CompletionRequest {
  const { n, session } = body,
    prompts = promptsOf(body.prompt),
    choices = prompts.length * (n ?? 1);
  for (const [i, prompt] of prompts.entries())
    checkPrompt(prompt, prompts.length > 1 ? `prompt.${i}` : "prompt", vocabulary);
  for (const id of Object.keys(body.logit_bias ?? {}))
    if (Number(id) >= vocabulary) throw invalid(`logit_bias.${id}`, `the model has ${vocabulary} tokens, from 0`);
  if (session && choices > 1)
    throw invalid(prompts.length > 1 ? "prompt" : "n", "a session goes on in one way; branch it for others");
  if (session && body.echo === true && typeof body.logprobs === "number")
    throw invalid("echo", "a prompt is not scored in a session; leave out echo, logprobs or session");
  return {
    prompts,
    n: n ?? 1,
    echo: body.echo ?? false,
    logprobs: body.logprobs ?? undefined,
    seed: body.seed ?? undefined,
    options: optionsOf(body),
    session: session?.id,
  };
}

/**
 * The seed of choice `branch` of a prompt: the request's own for the first; for others the first 48 bits of the
 * SHA-256 of "SEED:BRANCH".
 */
export function choiceSeed(seed: number | undefined, branch: number): number | undefined {
  if (seed === undefined || branch === 0) return seed;
  return createHash("sha256").update(`${seed}:${branch}`).digest().readUIntBE(0, 6);
}

function optionsOf(body: CompletionBody): CompletionRequest["options"] {
  const { top_p: topP, logit_bias: bias, logprobs, session } = body;
  return {
    maxTokens: body.max_tokens ?? 16,
    temperature: body.temperature ?? undefined,
    // The share of nothing is held by the likeliest token alone.
    topP: topP === 0 ? undefined : (topP ?? undefined),
    topK: topP === 0 ? 1 : (body.top_k ?? undefined),
    minP: body.min_p ?? undefined,
    repetitionPenalty: body.repetition_penalty ?? undefined,
    stop: body.stop ?? undefined,
    logitBias: bias ? banned(bias) : undefined,
    logprobs: logprobs ?? undefined,
    onAbort: session?.commit ?? "commit",
  };
}

function promptsOf(prompt: CompletionBody["prompt"]): readonly Prompt[] {
  if (typeof prompt === "string") return [prompt];
  if (prompt === undefined || prompt === null) return [""];
  return typeof prompt[0] === "number" ? [prompt as number[]] : (prompt as string[] | number[][]);
}

function checkPrompt(prompt: Prompt, param: string, vocabulary: number): void {
  if (typeof prompt === "string") return;
  try {
    checkTokens(prompt, vocabulary, 0);
  } catch (error) {
    throw isMemformerError(error) ? invalid(param, error.message) : error;
  }
}

function invalid(param: string, sentence: string): ServiceError {
  return new ServiceError("invalid_request", `${param}: ${sentence}`, { param });
}
