/** A server of its own: what `memformer serve` runs. */
import { randomUUID } from "node:crypto";
import type { FastifyInstance, FastifyServerOptions } from "fastify";
import { MemformerError } from "../errors.ts";
import { memformerService } from "./plugin.ts";
import type { ServiceOptions } from "./service-options.ts";

/** Where it listens, and what it logs. */
export interface ServeOptions extends ServiceOptions {
  /** Default 127.0.0.1. */
  readonly host?: string | undefined;
  /** Default 8080; 0: any that is free. */
  readonly port?: number | undefined;
  /** Lines of JSON on stderr, from this level on. Default "info". */
  readonly logLevel?: string | undefined;
  /** Whether `X-Forwarded-For` is believed: behind a proxy of yours only. Default false. */
  readonly trustProxy?: boolean | undefined;
}

/**
 * Starts it. Throws MemformerError TOOLS_MISSING without fastify, IO where the port cannot be had, CONFIG for options
 * that are none.
 */
export async function serve(options: ServeOptions): Promise<{ app: FastifyInstance; url: string }> {
  const { host = "127.0.0.1", port = 8080, logLevel = "info", trustProxy = false, ...service } = options;
  const fastify = await loadFastify();
  const app = fastify({
    logger: { level: logLevel, redact: ["req.headers.authorization"], stream: process.stderr },
    genReqId: () => randomUUID(),
    trustProxy,
    forceCloseConnections: "idle",
    routerOptions: { maxParamLength: 300 },
  });
  await app.register(memformerService, service);
  try {
    return { app, url: await app.listen({ host, port }) };
  } catch (error) {
    await app.close();
    const { code, message } = error as NodeJS.ErrnoException;
    const why = code === "EADDRINUSE" ? "another process listens there" : message;
    throw new MemformerError("IO", `cannot listen on ${host}:${port}: ${why}`, { cause: error });
  }
}

async function loadFastify(): Promise<(options: FastifyServerOptions & object) => FastifyInstance> {
  try {
    return (await import("fastify")).fastify as (options: FastifyServerOptions & object) => FastifyInstance;
  } catch (error) {
    throw new MemformerError("TOOLS_MISSING", "memformer serve needs fastify 5; install it with: npm install fastify", {
      cause: error,
    });
  }
}
