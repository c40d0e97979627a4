/** What requests and answers hold: checks, types and the OpenAPI description come from here. */
import { z } from "zod";

export const idParams = z.strictObject({
  id: z.string().regex(/^[A-Za-z0-9_-]{22}$/, "expected the id of a session: 22 of A-Z, a-z, 0-9, _ and -"),
});

/** Texts longer than this come as a stream, to `read`. */
export const longestText = 1 << 20;

/** Bytes of a body of JSON: a text of that length, escaped. */
export const longestBody = 1 << 23;

const token = z.int().nonnegative();
const text = z
  .string()
  .max(longestText, `expected at most ${longestText} characters; send longer texts as text/plain`)
  .refine((value) => !/\p{Surrogate}/u.test(value), "expected a text without half a surrogate pair");
const tokens = z.array(token).max(longestText);
const seed = z.int().nonnegative();

/** What a turn reads: text or tokens, not both. */
const inputShape = {
  text: text.optional().describe("Text to read first."),
  tokens: tokens.optional().describe("Tokens to read first, in place of text."),
};

export const readBody = z
  .strictObject(inputShape)
  .refine(({ text: t, tokens: ids }) => (t === undefined) !== (ids === undefined), "expected either text or tokens");

const biasSchema = z.record(z.string().regex(/^\d+$/, "expected token ids"), z.number().min(-1e4).max(1e4));
const stopText = z.string().min(1).max(1000);

/** Options of a generation, by the names of the library. */
export const generateShape = {
  maxTokens: z.int().nonnegative().max(1_000_000).default(256).describe("Most tokens to draw."),
  stop: z
    .union([stopText, z.array(stopText).max(16)])
    .optional()
    .describe("Texts that end the generation before they appear in it."),
  temperature: z.number().nonnegative().max(100).optional().describe("Of the softmax; 0 is greedy. Default 1."),
  topK: z.int().positive().optional().describe("Only the k likeliest tokens."),
  topP: z.number().positive().max(1).optional().describe("Only the fewest tokens that hold this share."),
  minP: z.number().min(0).max(1).optional().describe("Only tokens at least this share as likely as the likeliest."),
  repetitionPenalty: z.number().min(0.01).max(100).optional().describe("Discourages the latest tokens. Default 1."),
  repetitionWindow: z.int().nonnegative().optional().describe("How many of the latest tokens. Default 64."),
  logitBias: biasSchema
    .optional()
    .describe("Numbers by token id, added to the logits; below -100 the token is banned."),
  logprobs: z.int().nonnegative().max(100).optional().describe("Log-probabilities of each token and so many others."),
  seed: seed.optional().describe("The same seed in the same place draws the same. Default: a new one."),
  onAbort: z
    .enum(["commit", "discard"])
    .optional()
    .describe("What a stream that is broken off leaves in the session: what was sent (default), or nothing."),
};

export const generateBody = z
  .strictObject({ ...inputShape, ...generateShape, stream: z.boolean().default(false).describe("Server-sent events.") })
  .refine(({ text: t, tokens: ids }) => t === undefined || ids === undefined, "expected text or tokens, not both");

export type GenerateBody = z.output<typeof generateBody>;

export const listQuery = z.strictObject({ cursor: z.string().max(1024).optional() });

export const memoryQuery = z.strictObject({
  since: z.coerce.number().int().nonnegative().default(0).describe("The first segment that is wanted."),
  revision: z.coerce
    .number()
    .int()
    .optional()
    .describe("That of the answer before: another one is worth an answer at once, for segments were taken back."),
  wait: z.coerce.number().min(0).max(60).default(0).describe("Seconds to wait where there is nothing new."),
  limit: z.coerce.number().int().min(1).max(256).default(64).describe("The most segments in an answer."),
});

export const memoryAnswer = z.looseObject({
  available: z.boolean().describe("Whether the model's state is one memory of slots; else there is a reason."),
  reason: z.string().optional(),
  segments: z
    .array(z.any())
    .readonly()
    .optional()
    .describe("Classes, change and norm of each slot, and what tokens read."),
  next: z.int().optional().describe("What to ask for next: since."),
  more: z.boolean().optional().describe("Whether there is more to be had at once."),
  revision: z.int().optional().describe("Another one than before: ask for all segments again."),
});

const infoShape = {
  id: z.string(),
  position: z.int().describe("Tokens read and generated since the start of the document."),
  pending: z.int().describe("Those that have not reached the memory yet."),
  bytes: z.int().describe("Size of memory and tokens."),
  created: z.string(),
  updated: z.string(),
};
export const sessionInfo = z.object(infoShape);
export const sessionState = z.object({ ...infoShape, state: z.enum(["device", "host"]), busy: z.boolean() });
export const sessionList = z.object({ ids: z.array(z.string()), cursor: z.string().optional() });
export const readAnswer = z.object({ id: z.string(), position: z.int(), read: z.int() });

const logprob = z.object({ id: token, logprob: z.number() });
const generatedToken = z.object({
  id: token,
  offset: z.int().describe("Where its text begins, in UTF-16 units."),
  logprob: z.number().optional(),
  top: z.array(logprob).readonly().optional(),
});
export const turnAnswer = z.object({
  id: z.string(),
  text: z.string(),
  tokens: z.array(generatedToken).readonly(),
  finish: z.enum(["stop", "length", "end", "abort"]),
  stop: z.string().optional(),
  seed: z.int().nullable(),
  position: z.int(),
  usage: z.object({ read: z.int(), generated: z.int() }),
  replayed: z.literal(true).optional(),
});

export const modelInfo = z.object({
  name: z.string(),
  architecture: z.string(),
  parameters: z.int(),
  vocabulary: z.int(),
  segmentLength: z.int(),
  memorySlots: z.int(),
  tokenizer: z.string(),
  device: z.string(),
  fingerprint: z.string(),
});

export const errorBody = z.object({
  error: z.object({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable(),
    code: z.string(),
  }),
});
