/** The routes that clients of OpenAI's API know; docs/openai.md. */
import type { ServiceInstance } from "../service-instance.ts";
import { completionsRoute } from "./completions-route.ts";
import { modelsRoutes } from "./models-routes.ts";

export function openaiRoutes(app: ServiceInstance): void {
  completionsRoute(app);
  modelsRoutes(app);
}
