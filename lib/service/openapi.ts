/** The description of the API, out of the zod schemas of its routes. */
import type { SwaggerOptions } from "@fastify/swagger";
import { jsonSchemaTransform } from "fastify-type-provider-zod";
import { z } from "zod";

type Transform = typeof jsonSchemaTransform;

/** A body with a schema for each content type, which the transform of the type provider does not know. */
interface BodyByType {
  readonly content: Readonly<Record<string, { readonly schema: z.ZodType }>>;
}

const transform: Transform = (document) => {
  const body = document.schema?.body as BodyByType | z.ZodType | undefined;
  if (body === undefined || !("content" in body)) return jsonSchemaTransform(document);
  const { body: _, ...rest } = document.schema;
  const transformed = jsonSchemaTransform({ ...document, schema: rest });
  const content = Object.fromEntries(
    Object.entries(body.content).map(([type, { schema }]) => [type, { schema: jsonSchemaOf(type, schema) }]),
  );
  return { ...transformed, schema: { ...transformed.schema, body: { content } } };
};

function jsonSchemaOf(type: string, schema: z.ZodType): object {
  if (type === "application/octet-stream") return { type: "string", format: "binary" };
  if (type === "text/plain") return { type: "string" };
  return z.toJSONSchema(schema, { io: "input", target: "openapi-3.0" });
}

export const openApi: SwaggerOptions = {
  openapi: {
    openapi: "3.0.3",
    info: {
      title: "memformer",
      description: "Sessions with a memory of constant size: read, generate, branch, save, restore.",
      version: "1",
    },
    components: { securitySchemes: { bearer: { type: "http", scheme: "bearer" } } },
    security: [{ bearer: [] }, {}],
  },
  transform,
};
