/** What a session's memory did, a row per segment: for the page, and for whoever draws another picture. */
import { clientGone } from "../event-stream.ts";
import { errorBody, idParams, memoryAnswer, memoryQuery } from "../schemas.ts";
import type { ServiceInstance } from "../service-instance.ts";

export function memoryRoute(app: ServiceInstance): void {
  const { host } = app.memformer;

  app.get(
    "/v1/sessions/:id/memory",
    {
      schema: {
        summary: "What each memory slot did with the latest segments, and what tokens read, from the first call on.",
        tags: ["sessions"],
        params: idParams,
        querystring: memoryQuery,
        response: { 200: memoryAnswer, "4xx": errorBody },
      },
    },
    async (request, reply) => {
      const query = { ...request.query, signal: clientGone(reply) };
      return { ...(await host.memory(request.client, request.params.id, query)) };
    },
  );
}
