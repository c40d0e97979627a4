/** GET /v1/models: the one model that this server has, in OpenAI's form. */
import { z } from "zod";
import { errorBody } from "../schemas.ts";
import type { ServiceInstance } from "../service-instance.ts";
import { noModel } from "./completions-route.ts";
import { modelCard, modelList } from "./completion-schema.ts";

export function modelsRoutes(app: ServiceInstance): void {
  const card = {
    id: app.memformer.name,
    object: "model" as const,
    created: Math.floor(Date.now() / 1000),
    owned_by: "memformer",
  };

  app.get(
    "/v1/models",
    { schema: { summary: "The models of this server: one.", tags: ["openai"], response: { 200: modelList } } },
    async () => ({ object: "list" as const, data: [card] }),
  );

  app.get(
    "/v1/models/:model",
    {
      schema: {
        summary: "A model of this server.",
        tags: ["openai"],
        params: z.strictObject({ model: z.string() }),
        response: { 200: modelCard, "4xx": errorBody },
      },
    },
    async ({ params: { model } }) => {
      if (model !== card.id) throw noModel(model);
      return card;
    },
  );
}
