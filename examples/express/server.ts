/**
 * memformer behind Express: a text is continued as it is written.
 * `npx tsx examples/express/server.ts MODEL_FOLDER [PORT]`
 */
import express, { type Express } from "express";
import { once } from "node:events";
import { pathToFileURL } from "node:url";
import { Memformer } from "../../lib/index.ts";

export function service(model: Memformer): Express {
  const app = express();
  app.use(express.json({ limit: "100kb" }));
  app.post("/continuations", async (request, response) => {
    const { text, maxTokens = 100 } = request.body as { text: string; maxTokens?: number };
    const gone = new AbortController();
    response.on("close", () => {
      gone.abort();
    }); // the client went away, or all is said
    using session = await model.session();
    await session.read(text);
    response.type("text/plain");
    try {
      for await (const piece of session.generate({ maxTokens: Math.min(maxTokens, 1000), signal: gone.signal })) {
        if (!response.write(piece)) await once(response, "drain", { signal: gone.signal });
      }
      response.end();
    } catch (error) {
      if (!gone.signal.aborted) throw error;
    }
  });
  return app;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [, , folder, port = "3000"] = process.argv;
  if (folder === undefined) throw new Error("usage: server.ts MODEL_FOLDER [PORT]");
  const model = await Memformer.load(folder, { threads: 1 });
  const server = service(model).listen(Number(port));
  process.once("SIGTERM", () => server.close(() => void model.dispose()));
}
