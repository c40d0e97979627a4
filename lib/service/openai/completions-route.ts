/** POST /v1/completions: one answer in JSON, or chunks as server-sent events. */
import { randomBytes } from "node:crypto";
import { clientGone } from "../event-stream.ts";
import { errorBody, longestBody } from "../schemas.ts";
import { ServiceError } from "../service-error.ts";
import { callOf, type ServiceInstance } from "../service-instance.ts";
import { answerStream } from "../stream-answer.ts";
import { joined } from "./choice-text.ts";
import { completionRequest, type CompletionRequest } from "./completion-request.ts";
import { completion, completionBody } from "./completion-schema.ts";
import { completeAlone, completeInSession, type ChoicePart, type SessionPlace, type Spent } from "./run-choices.ts";

export function completionsRoute(app: ServiceInstance): void {
  const { host, name, events: settings, describe } = app.memformer;

  app.post(
    "/v1/completions",
    {
      bodyLimit: longestBody,
      schema: {
        summary: "Completes prompts, as OpenAI's API does; with a session, the prompt is read there.",
        tags: ["openai"],
        body: completionBody,
        response: { 200: completion, "4xx": errorBody },
      },
    },
    async (request, reply) => {
      const { body, client } = request,
        asked = completionRequest(body, host.model.config.vocabulary),
        call = callOf(request);
      if (body.model !== name) throw noModel(body.model);
      const head = {
        id: `cmpl-${randomBytes(16).toString("hex")}`,
        object: "text_completion" as const,
        created: Math.floor(Date.now() / 1000),
        model: name,
        system_fingerprint: (await describe()).fingerprint,
      };

      if (body.stream !== true) {
        const choices = new Choices(asked.prompts.length * asked.n),
          signal = clientGone(reply);
        const spent = inSession(asked)
          ? await completeInSession(host, client, asked, choices, { ...call, signal, onAbort: "discard" })
          : await completeAlone(host, client, asked, choices, signal);
        const { session } = spent as { session?: SessionPlace };
        if (session !== undefined) reply.headers(headersOf(session));
        return { ...head, choices: choices.all, usage: usageOf(spent), session };
      }

      return answerStream(request, reply, settings, async (events) => {
        const usage = body.stream_options?.include_usage === true ? { usage: null } : {};
        const chunk = async (part: ChoicePart, session?: SessionPlace): Promise<void> =>
          events.send({ ...head, choices: [choiceOf(part)], ...usage, ...(session && { session }) });
        const sink = {
          admitted: (session?: SessionPlace) => {
            events.open(session && headersOf(session));
          },
          part: async (part: ChoicePart) => {
            if (part.text !== "" || part.finish !== null || (part.logprobs?.tokens.length ?? 0) > 0) await chunk(part);
          },
          last: chunk,
        };
        const spent = inSession(asked)
          ? await completeInSession(host, client, asked, sink, { ...call, signal: events.gone })
          : await completeAlone(host, client, asked, sink, events.gone);
        if ("usage" in usage) await events.send({ ...head, choices: [], usage: usageOf(spent) });
      });
    },
  );
}

/** Choices as their parts come. */
class Choices {
  readonly all: ReturnType<typeof choiceOf>[];

  constructor(count: number) {
    this.all = Array.from({ length: count }, (_, index) => choiceOf({ index, text: "", logprobs: null, finish: null }));
  }

  readonly part = (part: ChoicePart): void => {
    const choice = this.all[part.index]!;
    choice.text += part.text;
    choice.finish_reason = part.finish;
    if (part.logprobs !== null)
      choice.logprobs = choice.logprobs === null ? part.logprobs : joined(choice.logprobs, part.logprobs);
  };
}

function choiceOf({ text, index, logprobs, finish }: ChoicePart) {
  return { text, index, logprobs, finish_reason: finish };
}

function usageOf({ prompt, completion: drawn }: Spent) {
  return { prompt_tokens: prompt, completion_tokens: drawn, total_tokens: prompt + drawn };
}

/** Where a session is; of a stream, whose headers leave first, before its turn. */
function headersOf({ id, position }: SessionPlace): Record<string, string> {
  return { "memformer-session": id, "memformer-position": String(position) };
}

function inSession(asked: CompletionRequest): asked is CompletionRequest & { readonly session: string } {
  return asked.session !== undefined;
}

/** Of a model that another server may have. */
export function noModel(model: string): ServiceError {
  return new ServiceError("model_not_found", `The model \`${model}\` does not exist`, { param: "model" });
}
