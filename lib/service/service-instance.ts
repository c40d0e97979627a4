/** Fastify as the routes see it: with zod's types, the host of the sessions, and the client of each request. */
import type { FastifyBaseLogger, FastifyInstance, FastifyRequest, RawServerDefault } from "fastify";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import type { EventStreamOptions } from "./event-stream.ts";
import { ServiceError } from "./service-error.ts";
import type { TurnCall } from "./host-types.ts";
import type { SessionHost } from "./session-host.ts";

/** What every route works with. */
export interface ServiceContext {
  readonly host: SessionHost;
  /** The model's name for clients. */
  readonly name: string;
  readonly events: EventStreamOptions;
  /** Milliseconds without a step, while turns wait, until the service is not ready. */
  readonly stallAfter: number;
  /** The answer of /v1/model. */
  readonly describe: () => Promise<ModelFacts>;
}

export interface ModelFacts {
  readonly name: string;
  readonly architecture: string;
  readonly parameters: number;
  readonly vocabulary: number;
  readonly segmentLength: number;
  readonly memorySlots: number;
  readonly tokenizer: string;
  readonly device: string;
  /** Of weights and version: the same fingerprint and seed draw the same. */
  readonly fingerprint: string;
}

declare module "fastify" {
  interface FastifyInstance {
    memformer: ServiceContext;
  }
  interface FastifyRequest {
    /** Whose request it is. */
    client: string;
  }
}

export type ServiceInstance = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  ZodTypeProvider
>;

/** What a call that may come twice is known by. Throws ServiceError invalid_request for a key that is none. */
export function callOf(request: Pick<FastifyRequest, "headers" | "body" | "url">): TurnCall {
  const key = request.headers["idempotency-key"];
  if (key !== undefined && (typeof key !== "string" || !/^[\x21-\x7e]{1,255}$/.test(key)))
    throw new ServiceError("invalid_request", "Idempotency-Key: expected 1 to 255 visible characters", {
      param: "Idempotency-Key",
    });
  const { body, url } = request;
  const said = typeof body === "object" && body !== null && "pipe" in body ? "stream" : JSON.stringify(body ?? null);
  return { idempotencyKey: key, request: `${url} ${said}` };
}
