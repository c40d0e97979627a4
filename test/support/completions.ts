/** Completions of a served model, asked for by the client of OpenAI that users have, and by hand. */
import type { IncomingMessage, ServerResponse } from "node:http";
import OpenAI from "openai";
import type { ServiceOptions } from "../../lib/service/index.ts";
import { ServiceBench } from "./service.ts";

export type Completion = OpenAI.Completion & { session?: { id: string; position: number } };
export type Part = OpenAI.CompletionChoice.Logprobs;

/** Bans all but printable ASCII: texts without half characters and without an end. */
export const ascii: Readonly<Record<string, number>> = Object.fromEntries(
  Array.from({ length: 257 }, (_, id) => id)
    .filter((id) => id < 32 || id > 126)
    .map((id) => [id, -100]),
);

export class CompletionBench implements AsyncDisposable {
  readonly service: ServiceBench;
  readonly client: OpenAI;
  /** Requests that arrived at POST /v1/completions. */
  posts = 0;
  /** What the server has written of the answer to the latest of them, as a stream. */
  latest = { text: "" };

  private constructor(service: ServiceBench, apiKey: string) {
    this.service = service;
    this.client = new OpenAI({ baseURL: `${service.url}/v1`, apiKey, maxRetries: 0 });
    service.app.server.prependListener("request", ({ url }: IncomingMessage, response: ServerResponse) => {
      if (url !== "/v1/completions") return;
      this.posts += 1;
      const sent = (this.latest = { text: "" }),
        write = response.write.bind(response) as (data: string) => boolean;
      response.write = (data: string) => {
        const [, json] = /^data: (\{.*\})/.exec(data) ?? [];
        if (json !== undefined) sent.text += textOf([JSON.parse(json) as Completion]);
        return write(data);
      };
    });
  }

  /** Clients that leave connect anew and then say nothing, which Node's server does not take for idle: it is forced. */
  static async start(options: Partial<ServiceOptions> = {}, apiKey = "none"): Promise<CompletionBench> {
    return new CompletionBench(await ServiceBench.start(options, { forceCloseConnections: true }), apiKey);
  }

  /** One answer. Our own fields beside OpenAI's. */
  async ask(body: object, options: OpenAI.RequestOptions = {}): Promise<Completion> {
    return this.client.completions.create({ model: "memformer", prompt: null, ...body } as never, options);
  }

  /** The chunks of a stream as they come. */
  async stream(
    body: object,
    options: OpenAI.RequestOptions = {},
  ): Promise<AsyncIterable<Completion> & { controller: AbortController }> {
    const asked = { model: "memformer", prompt: null, ...body, stream: true };
    return this.client.completions.create(asked as never, options) as never;
  }

  /** All of them. */
  async chunks(body: object): Promise<Completion[]> {
    return taken(await this.stream(body));
  }

  /** The bytes of a stream. */
  async raw(body: object): Promise<string> {
    return (await this.begun(body)).text();
  }

  /** A stream that has begun. */
  async begun(body: object): Promise<Response> {
    return fetch(`${this.service.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "memformer", ...body, stream: true }),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service[Symbol.asyncDispose]();
  }
}

/** Everything that an iterable gives. */
export async function taken<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

export function textOf(chunks: readonly Completion[], index = 0): string {
  return chunks
    .flatMap(({ choices }) => choices.filter((choice) => choice.index === index).map(({ text }) => text))
    .join("");
}

/** Log-probabilities of a choice's chunks, put together. */
export function logprobsOf(chunks: readonly Completion[]): Required<Part> {
  const parts = chunks.flatMap(({ choices }) => choices.map(({ logprobs }) => logprobs!));
  return {
    tokens: parts.flatMap((part) => part.tokens!),
    token_logprobs: parts.flatMap((part) => part.token_logprobs!),
    top_logprobs: parts.flatMap((part) => part.top_logprobs!),
    text_offset: parts.flatMap((part) => part.text_offset!),
  };
}
