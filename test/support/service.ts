/** A service of a small model on a port of its own, and clients that behave and misbehave. */
import Fastify, { type FastifyInstance } from "fastify";
import { request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";
import type { Memformer } from "../../lib/index.ts";
import { memformerService, type ServiceOptions } from "../../lib/service/index.ts";
import { neverEnds, perturb, tinyModel } from "./models.ts";

/** Bytes in, bytes out, without an end unless it is asked for. */
export async function servedModel(options: Parameters<typeof tinyModel>[0] = {}): Promise<Memformer> {
  const model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32", ...options });
  await perturb(model, 0.2);
  await neverEnds(model);
  return model;
}

export interface Answer<Body = Record<string, unknown>> {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Body;
}

/** An event of a stream: JSON, or "[DONE]". */
export type StreamEvent = Record<string, unknown> & { text?: string; finish?: string | null; error?: { code: string } };

export class ServiceBench implements AsyncDisposable {
  readonly app: FastifyInstance;
  readonly url: string;
  readonly #model: Memformer | undefined;

  private constructor(app: FastifyInstance, url: string, model: Memformer | undefined) {
    [this.app, this.url, this.#model] = [app, url, model];
  }

  /** Without a model: one of its own, which goes with it. */
  static async start(options: Partial<ServiceOptions> = {}, server: object = {}): Promise<ServiceBench> {
    const own = options.model === undefined ? await servedModel() : undefined;
    const app = Fastify({ forceCloseConnections: "idle", ...server });
    await app.register(memformerService, { grace: 0, ...options, model: options.model ?? own! });
    return new ServiceBench(app, await app.listen({ port: 0, host: "127.0.0.1" }), own);
  }

  async call<Body = Record<string, unknown>>(
    method: string,
    path: string,
    body?: object,
    headers: Record<string, string> = {},
  ): Promise<Answer<Body>> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: { ...(body !== undefined && { "content-type": "application/json" }), ...headers },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    const json = response.headers.get("content-type")?.includes("json") === true;
    return { status: response.status, headers: response.headers, body: (json ? JSON.parse(text) : text) as Body };
  }

  /** A new session's id. */
  async open(headers: Record<string, string> = {}): Promise<string> {
    const { body } = await this.call<{ id: string }>("POST", "/v1/sessions", undefined, headers);
    return body.id;
  }

  async generate(id: string, body: object, headers?: Record<string, string>): Promise<Answer> {
    return this.call("POST", `/v1/sessions/${id}/generate`, body, headers);
  }

  /** The events of a turn to its end. */
  async stream(id: string, body: object, headers: Record<string, string> = {}): Promise<StreamEvent[]> {
    const events: StreamEvent[] = [];
    for await (const event of this.events(id, body, headers)) events.push(event);
    return events;
  }

  /** The events of a turn as they come; leaving the loop drops the connection. */
  async *events(id: string, body: object, headers: Record<string, string> = {}): AsyncGenerator<StreamEvent> {
    const gone = new AbortController();
    try {
      const response = await fetch(`${this.url}/v1/sessions/${id}/generate`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify({ ...body, stream: true }),
        signal: gone.signal,
      });
      if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
      let rest = "";
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        rest += chunk;
        const parts = rest.split("\n\n");
        rest = parts.pop()!;
        for (const part of parts) {
          if (!part.startsWith("data: ")) continue;
          const data = part.slice(6);
          yield data === "[DONE]" ? { done: true } : (JSON.parse(data) as StreamEvent);
        }
      }
    } finally {
      gone.abort();
    }
  }

  /** A request whose answer nobody reads: its socket stays open and full. */
  async deaf(path: string, body: object): Promise<{ request: ClientRequest; response: IncomingMessage }> {
    const text = JSON.stringify(body),
      headers = { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
    const request = httpRequest(`${this.url}${path}`, { method: "POST", headers });
    request.on("error", () => undefined);
    request.end(text);
    const response = await new Promise<IncomingMessage>((resolve) => request.once("response", resolve));
    response.pause();
    return { request, response };
  }

  /** A metric's value, with its labels as Prometheus writes them. */
  async metric(name: string): Promise<number> {
    const { body } = await this.call<string>("GET", "/metrics");
    const line = body.split("\n").find((each) => each.startsWith(`${name} `));
    if (line === undefined) throw new Error(`no metric ${name} in\n${body}`);
    return Number(line.slice(name.length + 1));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.app.close();
    await this.#model?.dispose();
  }
}
