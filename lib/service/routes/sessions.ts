/** Sessions over HTTP: make, list, look at, read, branch, save, delete. */
import type { Readable } from "node:stream";
import { z } from "zod";
import { clientGone } from "../event-stream.ts";
import {
  errorBody,
  idParams,
  listQuery,
  longestBody,
  readAnswer,
  readBody,
  sessionInfo,
  sessionList,
  sessionState,
} from "../schemas.ts";
import { callOf, type ServiceInstance } from "../service-instance.ts";

const BYTES = "application/octet-stream";

export function sessionRoutes(app: ServiceInstance): void {
  const { host } = app.memformer;

  app.post(
    "/v1/sessions",
    {
      schema: {
        summary: "A session at the start of a document; with a body of bytes, where a saved one was.",
        tags: ["sessions"],
        body: {
          content: { "application/json": { schema: z.strictObject({}).nullish() }, [BYTES]: { schema: z.any() } },
        },
        response: { 201: sessionInfo, "4xx": errorBody },
      },
    },
    async (request, reply) => {
      const saved = Buffer.isBuffer(request.body) ? request.body : undefined;
      return reply.status(201).send(await host.create(request.client, saved, callOf(request)));
    },
  );

  app.get(
    "/v1/sessions",
    {
      schema: {
        summary: "The ids of your sessions.",
        tags: ["sessions"],
        querystring: listQuery,
        response: { 200: sessionList, "4xx": errorBody },
      },
    },
    async (request) => host.list(request.client, request.query.cursor),
  );

  app.get(
    "/v1/sessions/:id",
    {
      schema: {
        summary: "Where a session is.",
        tags: ["sessions"],
        params: idParams,
        response: { 200: sessionState, "4xx": errorBody },
      },
    },
    async (request) => host.info(request.client, request.params.id),
  );

  app.post(
    "/v1/sessions/:id/read",
    {
      bodyLimit: longestBody, // of JSON; a stream has none
      schema: {
        summary: "Reads a text, all of it or nothing. As text/plain it may have any length.",
        tags: ["sessions"],
        params: idParams,
        body: { content: { "application/json": { schema: readBody }, "text/plain": { schema: z.any() } } },
        response: { 200: readAnswer, "4xx": errorBody },
      },
    },
    async (request, reply) => {
      const { id } = request.params,
        body = request.body as z.output<typeof readBody> | Readable;
      const input = "pipe" in body ? body : (body.text ?? body.tokens);
      const options = { input, maxTokens: 0, onAbort: "discard", signal: clientGone(reply) } as const;
      const { position, usage } = await host.turn(request.client, id, options, {}, callOf(request));
      return { id, position, read: usage.read };
    },
  );

  app.post(
    "/v1/sessions/:id/branch",
    {
      schema: {
        summary: "A second session at the same place.",
        tags: ["sessions"],
        params: idParams,
        response: { 201: sessionInfo, "4xx": errorBody },
      },
    },
    async (request, reply) =>
      reply.status(201).send(await host.branch(request.client, request.params.id, callOf(request))),
  );

  app.get(
    "/v1/sessions/:id/state",
    {
      schema: {
        summary: "The session as bytes, to keep or to take to another server.",
        tags: ["sessions"],
        params: idParams,
        produces: [BYTES],
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const bytes = await host.save(request.client, id);
      return reply
        .type(BYTES)
        .header("content-disposition", `attachment; filename="${id}.session"`)
        .send(Buffer.from(bytes));
    },
  );

  app.delete(
    "/v1/sessions/:id",
    {
      schema: {
        summary: "Ends its turn, if it has one, and forgets it.",
        tags: ["sessions"],
        params: idParams,
        response: { 204: z.null(), "4xx": errorBody },
      },
    },
    async (request, reply) => {
      await host.delete(request.client, request.params.id);
      return reply.status(204).send(null);
    },
  );
}
