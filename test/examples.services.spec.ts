import { expect } from "chai";
import { NestFactory } from "@nestjs/core";
import type { FastifyInstance } from "fastify";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { service as expressService } from "../examples/express/server.ts";
import { service } from "../examples/fastify/server.ts";
import type { Progress } from "../examples/fastify/training.ts";
import { MemformerModule } from "../examples/nest/memformer.module.ts";
import { Memformer } from "../lib/index.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";
import { neverEnds } from "./support/models.ts";
import { temporary } from "./support/runs.ts";

const json = (body: object): RequestInit => ({
  method: "POST",
  body: JSON.stringify(body),
  headers: { "content-type": "application/json" },
});

/** The model the services open. */
async function saved(folder: string): Promise<string> {
  await using model = await Memformer.create({
    preset: "tiny",
    width: 16,
    heads: 2,
    feedForward: 24,
    encoderLayers: 1,
    decoderLayers: 1,
    memorySlots: 3,
    segmentLength: 16,
  });
  await neverEnds(model);
  await model.save(join(folder, "model"));
  return join(folder, "model");
}

describe("the Fastify example", function () {
  this.timeout(120_000);
  let folder: Awaited<ReturnType<typeof temporary>>, app: FastifyInstance, url: string, tensors: number;
  const begin = async (): Promise<void> => {
    app = await service({ model: join(folder.path, "model"), data: folder.path });
    url = await app.listen({ port: 0 });
  };
  const conversation = async (): Promise<string> => {
    const answer = await fetch(`${url}/conversations`, { method: "POST" });
    expect(answer.status).to.equal(201);
    return ((await answer.json()) as { id: string }).id;
  };
  const ask = async (id: string, body: object, signal?: AbortSignal): Promise<Response> =>
    fetch(`${url}/conversations/${id}/answers`, { ...json(body), ...(signal === undefined ? {} : { signal }) });
  const progress = async (method = "GET"): Promise<Progress> =>
    (await fetch(`${url}/training`, { method })).json() as Promise<Progress>;

  before(async () => {
    folder = await temporary();
    await saved(folder.path);
    tensors = (await memoryAtRest()).tensors;
    await begin();
  });
  after(async () => {
    await app.close();
    await folder.remove();
  });

  it("streams an answer piece by piece, and goes on with the conversation", async () => {
    const id = await conversation();
    for (const text of ["Call me Ishmael.", " Some years ago"]) {
      const answer = await ask(id, { text, maxTokens: 20 });
      expect(answer.headers.get("content-type")).to.equal("text/event-stream");
      const events = await answer.text();
      expect(events).to.match(/^(data: ".+"\n\n)+event: end\ndata: {}\n\n$/);
    }
  });

  it("refuses in words: an unknown conversation, one that is being answered, a text that is too long, an option that is none", async () => {
    const refused = async (answer: Response): Promise<[number, string]> => [
      answer.status,
      ((await answer.json()) as { error: string }).error,
    ];
    expect(await refused(await ask("01234567-89ab-4def-8123-456789abcdef", { text: "x" }))).to.deep.equal([
      404,
      "there is no such conversation",
    ]);
    expect((await refused(await ask("..%2Fmodel", { text: "x" })))[0]).to.equal(400);
    const id = await conversation();
    expect((await refused(await ask(id, { text: "x".repeat(20_001) })))[0]).to.equal(400);
    expect((await refused(await ask(id, { text: "x", maxTokens: 0 })))[0]).to.equal(400);
    const first = await ask(id, { text: "x", maxTokens: 1000 });
    expect((await refused(await ask(id, { text: "y" })))[0]).to.equal(409);
    await first.body!.cancel();
  });

  it("stops writing when the client goes away", async () => {
    const id = await conversation(),
      gone = new AbortController();
    const answer = await ask(id, { text: "x", maxTokens: 1000 }, gone.signal);
    await answer.body!.getReader().read();
    gone.abort();
    let status = 409;
    for (let i = 0; i < 100 && status === 409; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      const next = await ask(id, { text: "y", maxTokens: 1 });
      status = next.status;
      await next.text();
    }
    expect(status, "the conversation is free again").to.equal(200);
  });

  it("trains in the background, answers meanwhile, and stops with a saved model", async () => {
    expect((await fetch(`${url}/training`, json({ steps: 100_000, horizon: 2 }))).status).to.equal(202);
    expect((await fetch(`${url}/training`, json({ steps: 1 }))).status).to.equal(409);
    while ((await progress()).step < 3) await new Promise((resolve) => setTimeout(resolve, 20));
    const answer = await ask(await conversation(), { text: "Call me", maxTokens: 5 });
    expect(await answer.text()).to.match(/event: end/);
    expect(await (await fetch(`${url}/health`)).json()).to.deep.equal({ ok: true });
    const ended = await progress("DELETE");
    expect(ended).to.deep.include({ running: false, failure: null, saved: join(folder.path, "trained") });
    expect(ended.loss).to.be.within(1, 8);
    await using trained = await Memformer.load(ended.saved!);
    expect(trained.config.segmentLength).to.equal(16);
  });

  it("shuts down while it answers and trains: ends both, keeps every conversation, frees everything", async () => {
    const id = await conversation();
    expect((await fetch(`${url}/training`, json({ steps: 100_000, horizon: 2 }))).status).to.equal(202);
    while ((await progress()).step < 1) await new Promise((resolve) => setTimeout(resolve, 20));
    const answer = await ask(id, { text: "Remember me", maxTokens: 1000 });
    const rest = answer.text();
    await app.close();
    expect(await rest).to.match(/\n\nevent: cut\n/);
    expect(await readdir(join(folder.path, "sessions"))).to.include(`${id}.session`);
    expect((await memoryAtRest()).tensors).to.equal(tensors);
    await begin();
    const next = await ask(id, { text: " still?", maxTokens: 5 });
    expect([next.status, await next.text()]).to.satisfy(
      ([status, text]: [number, string]) => status === 200 && text.includes("event: end"),
    );
  });
});

describe("the Express example", () => {
  const listening = async (model: Memformer): Promise<{ url: string; close: () => Promise<void> }> => {
    const server = expressService(model).listen(0);
    await once(server, "listening");
    return {
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/continuations`,
      close: async () => {
        server.close();
        server.closeAllConnections();
        await once(server, "close");
      },
    };
  };

  it("continues a text", async () => {
    const folder = await temporary(),
      start = (await memoryAtRest()).tensors;
    const model = await Memformer.load(await saved(folder.path));
    const { url, close } = await listening(model);
    expect(await (await fetch(url, json({ text: "Call me", maxTokens: 20 }))).text()).to.not.equal("");
    await close();
    await model.dispose();
    expect((await memoryAtRest()).tensors).to.equal(start);
    await folder.remove();
  });

  it("stops when the client goes away", async () => {
    let ended: () => void = () => undefined;
    const end = new Promise<void>((resolve) => {
      ended = resolve;
    });
    const endless = {
      read: async () => Promise.resolve(),
      async *generate({ signal }: { signal: AbortSignal }) {
        try {
          for (;;) {
            await new Promise((resolve) => setTimeout(resolve, 1));
            signal.throwIfAborted();
            yield "word ";
          }
        } finally {
          ended();
        }
      },
      [Symbol.dispose]: () => undefined,
    };
    const { url, close } = await listening({ session: async () => Promise.resolve(endless) } as unknown as Memformer);
    const gone = new AbortController();
    const answer = await fetch(url, { ...json({ text: "x" }), signal: gone.signal });
    await answer.body!.getReader().read();
    gone.abort();
    await end;
    await close();
  });
});

describe("the NestJS example", () => {
  it("injects the model, continues a text, and frees the model at shutdown", async () => {
    const folder = await temporary(),
      start = (await memoryAtRest()).tensors;
    const app = await NestFactory.create(MemformerModule.forFolder(await saved(folder.path)), { logger: false });
    await app.listen(0);
    const { text } = (await (
      await fetch(`${await app.getUrl()}/continuations`, json({ text: "Call me", maxTokens: 20 }))
    ).json()) as { text: string };
    expect(text).to.not.equal("");
    await app.close();
    expect((await memoryAtRest()).tensors).to.equal(start);
    await folder.remove();
  });
});
