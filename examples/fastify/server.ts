/**
 * A service that talks: one session a conversation, answers streamed as server-sent events, training in the background
 * of the same process. `npx tsx examples/fastify/server.ts MODEL_FOLDER DATA_FOLDER [PORT]`; SIGTERM ends it in order.
 */
import Fastify, { type FastifyError, type FastifyInstance } from "fastify";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pathToFileURL } from "node:url";
import {
  isMemformerError,
  Memformer,
  memoryUsage,
  openDataset,
  openTokenizer,
  configureRuntime,
  TokenStream,
} from "../../lib/index.ts";
import { Conversations } from "./conversations.ts";
import { Training } from "./training.ts";

export interface ServiceOptions {
  /** A folder that `model.save` wrote. */
  readonly model: string;
  /** For sessions put away and models trained. */
  readonly data: string;
  readonly logger?: boolean;
}

const limits = { inMemory: 100, answersAtOnce: 8, textLength: 20_000, tokens: 1000 };
const id = { type: "object", properties: { id: { type: "string", format: "uuid" } }, required: ["id"] } as const;
const question = {
  type: "object",
  required: ["text"],
  additionalProperties: false,
  properties: {
    text: { type: "string", maxLength: limits.textLength },
    maxTokens: { type: "integer", minimum: 1, maximum: limits.tokens, default: 200 },
    temperature: { type: "number", minimum: 0, default: 0.8 },
  },
} as const;
const run = {
  type: "object",
  required: ["steps"],
  additionalProperties: false,
  properties: {
    steps: { type: "integer", minimum: 1, maximum: 100_000 },
    horizon: { type: "integer", minimum: 1, maximum: 64, default: 4 },
    learningRate: { type: "number", exclusiveMinimum: 0, default: 1e-3 },
  },
} as const;

export async function service({ model: folder, data, logger = false }: ServiceOptions): Promise<FastifyInstance> {
  const tokenizer = await openTokenizer("bytes"),
    book = await openDataset("moby-dick", { tokenizer });
  const model = await Memformer.load(folder);
  const conversations = new Conversations(model, tokenizer, join(data, "sessions"), limits);
  const training = new Training(
    folder,
    join(data, "trained"),
    () => new TokenStream(book.train, { lanes: 8, segmentLength: model.config.segmentLength }),
  );
  const app = Fastify({ logger, bodyLimit: 4 * limits.textLength + 1000, forceCloseConnections: "idle" });

  app.setErrorHandler(async (error: FastifyError, request, reply) => {
    const status = isMemformerError(error)
      ? error.code === "ERR_MEMFORMER_BUSY"
        ? 409
        : 500
      : (error.statusCode ?? 500);
    if (status >= 500) request.log.error(error);
    return reply.status(status).send({ error: error.message, code: error.code });
  });
  app.get("/health", async () => ({ ok: true }));
  app.get("/memory", async () => memoryUsage());

  app.post("/conversations", async (_, reply) => reply.status(201).send({ id: await conversations.open() }));
  app.post<{ Params: { id: string }; Body: { text: string; maxTokens: number; temperature: number } }>(
    "/conversations/:id/answers",
    { schema: { params: id, body: question } },
    async ({ params, body: { text, ...options } }, reply) => {
      const answer = events(conversations, conversations.answer(params.id, text, options));
      await answer.next(); // what is refused is refused here, with a status of its own
      // A client that goes away destroys the stream, which ends the generation.
      return reply.type("text/event-stream").header("cache-control", "no-store").send(Readable.from(answer));
    },
  );
  app.delete<{ Params: { id: string } }>(
    "/conversations/:id",
    { schema: { params: id } },
    async ({ params }, reply) => {
      await conversations.end(params.id);
      return reply.status(204).send();
    },
  );

  app.post<{ Body: { steps: number; horizon: number; learningRate: number } }>(
    "/training",
    { schema: { body: run } },
    async ({ body }, reply) => {
      training.start(body);
      return reply.status(202).send(training.progress);
    },
  );
  app.get("/training", async () => training.progress);
  app.delete("/training", async () => {
    await training.stop();
    return training.progress;
  });

  // First what keeps requests open ends, then Fastify waits for them, then what they used is freed.
  app.addHook("preClose", async () => {
    conversations.stopAnswering();
    await training.stop();
  });
  app.addHook("onClose", async () => {
    await conversations.close();
    await model.dispose();
    await book.close();
  });
  return app;
}

async function* events(
  conversations: Conversations,
  pieces: AsyncIterable<string>,
): AsyncGenerator<string, void, void> {
  for await (const piece of pieces) yield `data: ${JSON.stringify(piece)}\n\n`;
  yield `event: ${conversations.closing ? "cut" : "end"}\ndata: {}\n\n`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [, , model, data, port = "3000"] = process.argv;
  if (model === undefined || data === undefined) throw new Error("usage: server.ts MODEL_FOLDER DATA_FOLDER [PORT]");
  // One thread for the operators leaves the other cores to the event loop and to what else the machine does.
  configureRuntime({ threads: Number(process.env["THREADS"] ?? 1) });
  const app = await service({ model, data, logger: process.env["LOG"] === "1" });
  for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => void app.close());
  console.log(await app.listen({ port: Number(port) }));
}
