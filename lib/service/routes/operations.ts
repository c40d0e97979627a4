/** What those who run the service look at: liveness, readiness, metrics, the model, the description of the API. */
import { exposition, expositionType } from "../metrics/instruments.ts";
import { processInstruments } from "../metrics/service-metrics.ts";
import { modelInfo } from "../schemas.ts";
import type { ServiceInstance } from "../service-instance.ts";

export function operationRoutes(app: ServiceInstance): void {
  const { host, stallAfter, describe } = app.memformer;

  app.get("/live", { schema: { hide: true } }, async () => ({ live: true }));

  app.get("/ready", { schema: { hide: true } }, async (_, reply) => {
    const reason = host.closing
      ? "it is shutting down"
      : host.stalled * 1000 > stallAfter
        ? `turns wait, and no step has ended for ${Math.round(host.stalled)} s`
        : undefined;
    return reply.status(reason === undefined ? 200 : 503).send({ ready: reason === undefined, reason });
  });

  app.get("/metrics", { schema: { hide: true } }, async (_, reply) =>
    reply.type(expositionType).send(exposition([...host.metrics.instruments, ...processInstruments()])),
  );

  app.get(
    "/v1/model",
    { schema: { summary: "The model that this server has.", tags: ["model"], response: { 200: modelInfo } } },
    async () => describe(),
  );

  app.get("/openapi.json", { schema: { hide: true } }, async () => app.swagger());
}
