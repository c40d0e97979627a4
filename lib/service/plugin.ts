/** The service as a plugin of Fastify 5: `app.register(memformerService, { model, store, prefix: "/memory" })`. */
import rateLimit from "@fastify/rate-limit";
import swagger from "@fastify/swagger";
import websocket from "@fastify/websocket";
import type { FastifyInstance, FastifyPluginAsync } from "fastify";
import { serializerCompiler, validatorCompiler } from "fastify-type-provider-zod";
import { openTokenizer } from "../data/tokenizers/open.ts";
import { Clients } from "./auth.ts";
import { answerError } from "./error-answers.ts";
import { modelFacts } from "./model-facts.ts";
import { openApi } from "./openapi.ts";
import { registerIn } from "./metrics/registry.ts";
import { openaiRoutes } from "./openai/index.ts";
import { generateRoutes } from "./routes/generate.ts";
import { memoryRoute } from "./routes/memory.ts";
import { operationRoutes } from "./routes/operations.ts";
import { pageRoutes } from "./routes/page.ts";
import { sessionRoutes } from "./routes/sessions.ts";
import { socketRoute } from "./routes/socket.ts";
import { ServiceError } from "./service-error.ts";
import type { ServiceInstance } from "./service-instance.ts";
import { checkService, type ServiceOptions } from "./service-options.ts";
import { SessionHost } from "./session-host.ts";
import { memoryStore } from "./stores/memory.ts";
import { watchUnused } from "./unused-connections.ts";

/**
 * Registers the routes of docs/service.md under the plugin's prefix. The model stays its owner's: dispose of it after
 * `app.close()`, which lets turns go on for `grace` milliseconds, commits every session and frees the rest.
 *
 * Throws MemformerError CONFIG for unknown options and those out of range.
 */
export const memformerService: FastifyPluginAsync<ServiceOptions> = async (instance, options) => {
  checkService(options);
  const { model, name = "memformer", tokenizer = "bytes", store = memoryStore(), grace = 5000 } = options;
  const opened = typeof tokenizer === "string" ? await openTokenizer(tokenizer) : tokenizer;
  const host = new SessionHost({ ...options, tokenizer: opened, store });
  const clients = new Clients(options.tokens);
  const app = instance.withTypeProvider() as unknown as ServiceInstance;

  app.decorate("memformer", {
    host,
    name,
    events: { pingAfter: options.pingAfter ?? 15_000, readerTimeout: options.readerTimeout ?? 30_000 },
    stallAfter: options.stallAfter ?? 60_000,
    describe: async () => modelFacts(model, name, opened.name),
  });
  app.decorateRequest("client", "");
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  app.setErrorHandler(answerError);
  app.setNotFoundHandler(async (request) => {
    throw new ServiceError("not_found", `there is no ${request.method} ${request.url.split("?", 1)[0]}`);
  });
  await addPlugins(app, options);
  addParsers(app);
  app.addHook("onRequest", async (request, reply) => {
    reply.header("x-request-id", request.id);
    if (request.routeOptions.url?.includes("/v1/") === true) request.client = clients.of(request.headers.authorization);
  });
  const routes = [sessionRoutes, generateRoutes, socketRoute, memoryRoute, operationRoutes, openaiRoutes];
  for (const register of routes) register(app);
  if (options.page !== false) pageRoutes(app);
  if (options.metricsRegistry !== undefined) registerIn(options.metricsRegistry, host.metrics.instruments);

  // Streams end before Fastify waits for its connections.
  const closeUnused = watchUnused(app.server);
  app.addHook("preClose", async () => {
    await host.close(grace);
    closeUnused();
  });
};

async function addPlugins(app: FastifyInstance, { requestsPerMinute }: ServiceOptions): Promise<void> {
  if (!app.hasDecorator("swagger")) await app.register(swagger, openApi);
  if (!app.hasDecorator("websocketServer"))
    await app.register(websocket, { options: { maxPayload: 1 << 23, perMessageDeflate: false } });
  if (requestsPerMinute === undefined) return;
  await app.register(rateLimit, {
    max: requestsPerMinute,
    timeWindow: 60_000,
    keyGenerator: (request) => request.headers.authorization ?? request.ip,
    errorResponseBuilder: (_, { ttl }) =>
      new ServiceError("rate_limited", `this client has sent ${requestsPerMinute} requests in a minute`, {
        retryAfter: ttl / 1000,
      }),
  });
}

function addParsers(app: ServiceInstance): void {
  app.addContentTypeParser("application/octet-stream", { parseAs: "buffer", bodyLimit: 1 << 28 }, (_, body, done) => {
    done(null, body);
  });
  app.removeContentTypeParser("text/plain");
  app.addContentTypeParser("text/plain", (_, payload, done) => {
    done(null, payload);
  });
}
