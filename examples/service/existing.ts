/**
 * The plugin in a Fastify service that is there already: its own routes, its own users, its own metrics; sessions under
 * /memory. `npx tsx examples/service/existing.ts MODEL_FOLDER DATA_FOLDER [PORT]`; SIGTERM ends it in order.
 */
import closeWithGrace from "close-with-grace";
import Fastify, { type FastifyInstance } from "fastify";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { collectDefaultMetrics, Registry } from "prom-client";
import { configureRuntime, Memformer } from "../../lib/index.ts";
import { fileStore, memformerService } from "../../lib/service/index.ts";

/** The service; `model` and `data` are folders, `users` tokens by name. */
export async function service(model: string, data: string, users: Record<string, string>): Promise<FastifyInstance> {
  const app = Fastify({ forceCloseConnections: "idle" });
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });

  app.get("/orders/:id", async (request) => ({ order: (request.params as { id: string }).id }));
  app.get("/metrics", async (_, reply) => reply.type(registry.contentType).send(await registry.metrics()));

  const loaded = await Memformer.load(model);
  await app.register(memformerService, {
    prefix: "/memory",
    model: loaded,
    store: fileStore(join(data, "sessions")),
    tokens: users,
    turnsPerClient: 4,
    metricsRegistry: registry,
  });
  app.addHook("onClose", async () => loaded.dispose()); // after the plugin has committed its sessions
  return app;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [, , model, data, port = "3000"] = process.argv;
  if (model === undefined || data === undefined) throw new Error("usage: existing.ts MODEL_FOLDER DATA_FOLDER [PORT]");
  configureRuntime({ threads: 1 }); // the other cores are the event loop's and the other routes'
  const app = await service(model, data, { web: process.env["WEB_TOKEN"] ?? "a-token-of-your-own" });
  closeWithGrace({ delay: 10_000 }, async () => app.close());
  console.log(await app.listen({ port: Number(port) }));
}
