/** The body and the answer of /v1/completions, in OpenAI's words; what it has and is not done here is refused. */
import { z } from "zod";
import { idParams, longestText } from "../schemas.ts";

const text = z.string().max(longestText);
const tokens = z.array(z.int().nonnegative()).max(longestText);
const most = 2048;

const prompt = z.union(
  [text, tokens.min(1), z.array(text).min(1).max(most), z.array(tokens).min(1).max(most)],
  "expected a text, tokens, or an array of either that is not empty",
);
const stopText = z
  .string()
  .min(1)
  .max(1000)
  .refine((stop) => !/\p{Surrogate}/u.test(stop), "expected whole characters");
const penalty = z.number().refine((value) => value === 0, "not done here; leave it out, or use repetition_penalty");

export const completionBody = z
  .strictObject({
    model: z.string().describe("The name that GET /v1/models gives."),
    prompt: prompt.nullish().describe("Texts, or tokens. Default: the start of a document, or of a session's turn."),
    max_tokens: z.int().nonnegative().max(1_000_000).nullish().describe("Most tokens to draw. Default 16."),
    temperature: z.number().nonnegative().max(100).nullish().describe("0 is greedy. Default 1."),
    top_p: z
      .number()
      .nonnegative()
      .max(1)
      .nullish()
      .describe("Only the fewest tokens that hold this share. Default 1."),
    n: z.int().positive().max(128).nullish().describe("Choices for each prompt, which is read once. Default 1."),
    stream: z.boolean().nullish().describe("Server-sent events. Default false."),
    stream_options: z
      .strictObject({
        include_usage: z.boolean().nullish().describe("One more chunk, without choices, that holds the usage."),
        include_obfuscation: z.literal(false, "expected false; not done here").nullish(),
      })
      .nullish(),
    logprobs: z.int().nonnegative().max(5).nullish().describe("Log-probabilities of tokens and of so many others."),
    echo: z.boolean().nullish().describe("The prompt too; with logprobs it is scored token by token. Default false."),
    stop: z
      .union([stopText, z.array(stopText).max(16)], "expected a text of at most 1000 characters, or at most 16 of them")
      .nullish()
      .describe("Texts that end a choice before they appear in it."),
    seed: z.int().nonnegative().nullish().describe("The same seed draws the same. Default: a new one."),
    logit_bias: z
      .record(z.string().regex(/^\d{1,10}$/, "expected token ids"), z.number().min(-100).max(100))
      .nullish()
      .describe("Numbers by token id, added to the logits; -100 bans a token."),
    user: z.string().nullish().describe("Not looked at."),
    presence_penalty: penalty.nullish().describe("Only 0."),
    frequency_penalty: penalty.nullish().describe("Only 0."),
    best_of: z.int().nullish().describe("Only as many as n."),
    suffix: z.literal("", "not done here; leave it out").nullish().describe("Only empty."),
    top_k: z.int().positive().nullish().describe("Only the k likeliest tokens."),
    min_p: z.number().min(0).max(1).nullish().describe("Only tokens at least this share as likely as the likeliest."),
    repetition_penalty: z.number().min(0.01).max(100).nullish().describe("Discourages the latest tokens. Default 1."),
    session: z
      .strictObject({
        id: idParams.shape.id,
        commit: z.enum(["commit", "discard"]).nullish().describe("What a stream that is broken off leaves there."),
      })
      .nullish()
      .describe("The session that reads the prompt and goes on."),
  })
  .refine(({ best_of: best, n }) => (best ?? n ?? 1) === (n ?? 1), {
    path: ["best_of"],
    error: "not done here; leave it out, or ask for n choices",
  })
  .refine(({ stream, stream_options: options }) => stream === true || (options ?? null) === null, {
    path: ["stream_options"],
    error: "expected only with stream: true",
  });

export type CompletionBody = z.output<typeof completionBody>;

const logprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
  text_offset: z.array(z.int()).describe("In characters (code points) of the choice's text."),
});

export const completion = z.object({
  id: z.string(),
  object: z.literal("text_completion"),
  created: z.int(),
  model: z.string(),
  system_fingerprint: z.string(),
  choices: z.array(
    z.object({
      text: z.string(),
      index: z.int(),
      logprobs: logprobs.nullable(),
      finish_reason: z.enum(["stop", "length"]).nullable(),
    }),
  ),
  usage: z.object({ prompt_tokens: z.int(), completion_tokens: z.int(), total_tokens: z.int() }),
  session: z.object({ id: z.string(), position: z.int() }).optional(),
});

export type Logprobs = z.output<typeof logprobs>;

export const modelCard = z.object({
  id: z.string(),
  object: z.literal("model"),
  created: z.int(),
  owned_by: z.string(),
});
export const modelList = z.object({ object: z.literal("list"), data: z.array(modelCard) });
