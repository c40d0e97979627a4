/** Completions that go on in a session, fail, are left, or come by the thousand. */
import { expect } from "chai";
import Fastify from "fastify";
import OpenAI from "openai";
import { get } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { Session, type Memformer } from "../lib/index.ts";
import { completion, completionBody } from "../lib/service/openai/completion-schema.ts";
import { EventStream } from "../lib/service/event-stream.ts";
import { memformerService } from "../lib/service/index.ts";
import { errorBody } from "../lib/service/schemas.ts";
import { ascii, CompletionBench, logprobsOf, taken, textOf, type Completion } from "./support/completions.ts";
import { failure } from "./support/failure.ts";
import { fuzzBodies } from "./support/fuzz-bodies.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";
import { tinyModel } from "./support/models.ts";
import { servedModel, ServiceBench } from "./support/service.ts";

const plain = { logit_bias: ascii, seed: 3 };
const forever = { ...plain, max_tokens: 1_000_000 };

/** Waits until nothing runs, as soon as it does. */
async function idle(bench: CompletionBench, most = 5000): Promise<number> {
  const began = performance.now();
  while ((await bench.service.metric("memformer_requests_running")) > 0) {
    expect(performance.now() - began, "ms that something ran").to.be.below(most);
    await wait(2);
  }
  return performance.now() - began;
}

/** Waits until so many run. */
async function running({ service }: CompletionBench, count: number): Promise<void> {
  while ((await service.metric("memformer_requests_running")) < count) await wait(5);
}

/** More than what lies between a server and a client holds: 64 choices that echo 200,000 characters. */
const loud = { model: "memformer", ...forever, prompt: "x".repeat(200_000), echo: true, n: 64, stream: true };

/** Takes the first chunk of a stream that has no end, or so many, and leaves. */
async function leave(bench: CompletionBench, body: object, count = 1): Promise<Completion[]> {
  const stream = await bench.stream({ ...forever, ...body }),
    chunks: Completion[] = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    if (chunks.length < count) continue;
    if (count > 1) await wait(50);
    break; // the client drops the connection
  }
  return chunks;
}

describe("completions in a session", function () {
  this.timeout(60_000);
  let model: Memformer, bench: CompletionBench;
  before(async () => {
    model = await servedModel();
    bench = await CompletionBench.start({ model });
  });
  after(async () => {
    await bench[Symbol.asyncDispose]();
    await model.dispose();
  });

  it("go on where it is, and say where that was and has come to", async () => {
    const id = await bench.service.open(),
      session = { id };
    const whole = await bench.ask({ ...plain, prompt: "Call me", max_tokens: 20 });
    const { data: first, response } = await bench.client.completions
      .create({ model: "memformer", prompt: "Call me", ...plain, max_tokens: 12, session } as never)
      .withResponse();
    expect(first).to.deep.include({ session: { id, position: 19 } });
    expect(response.headers.get("memformer-session")).to.equal(id);
    expect(response.headers.get("memformer-position")).to.equal("19");
    const { data: stream, response: opened } = (await bench.client.completions
      .create({ model: "memformer", ...plain, max_tokens: 8, stream: true, session } as never)
      .withResponse()) as unknown as { data: AsyncIterable<Completion>; response: Response };
    expect(opened.headers.get("memformer-position")).to.equal("19");
    const chunks = await taken(stream);
    expect(chunks.at(-1)).to.deep.include({ session: { id, position: 27 } });
    expect((first as unknown as Completion).choices[0]!.text + textOf(chunks)).to.equal(whole.choices[0]!.text);
    const { body } = await bench.service.call("GET", `/v1/sessions/${id}`);
    expect(body).to.include({ position: 27, busy: false });
    const echo = await bench.ask({ ...plain, prompt: "So", max_tokens: 4, echo: true, session });
    expect(echo.choices[0]!.text).to.have.length(6).and.match(/^So/);
  });

  it("answer a call with the same idempotency key again, streamed or not", async () => {
    for (const stream of [false, true]) {
      const session = { id: await bench.service.open() },
        body = { prompt: "Call", max_tokens: 9, logit_bias: ascii, logprobs: 1, session },
        options = { headers: { "idempotency-key": `again-${stream}` } };
      const call = async (): Promise<unknown[]> => {
        if (!stream) {
          const { choices, usage, session: place } = await bench.ask(body, options);
          return [choices[0]!.text, choices[0]!.finish_reason, choices[0]!.logprobs, usage, place];
        }
        const chunks = await taken(await bench.stream({ ...body, stream_options: { include_usage: true } }, options));
        const end = chunks.at(-2)!;
        return [
          textOf(chunks),
          end.choices[0]!.finish_reason,
          logprobsOf(chunks.slice(0, -1)),
          chunks.at(-1)!.usage,
          end.session,
        ];
      };
      const first = await call();
      expect(await call()).to.deep.equal(first);
      expect((await bench.service.call("GET", `/v1/sessions/${session.id}`)).body["position"]).to.equal(13);
      const other = await failure(bench.ask({ ...body, prompt: "Tell", ...(stream && { stream }) }, options));
      expect(other).to.be.instanceOf(OpenAI.UnprocessableEntityError).and.include({ code: "idempotency_key_reused" });
    }
  });

  for (const [commit, held] of [["commit"], ["discard"], ["commit", "while text is held back"]] as const) {
    const what = `${commit} what was sent${held === undefined ? "" : ` ${held}`}`;
    it(`that are left after the first chunk ${what}, and the next turn may come at once (1)`, async () => {
      const begun = await bench.ask({ ...plain, prompt: "Call me Ishmael", max_tokens: 600 });
      const stop = held && `${begun.choices[0]!.text.slice(5)}\u0001`; // from the sixth token on it may be the stop string
      const id = await bench.service.open();
      await bench.ask({ prompt: "Call me", max_tokens: 0, session: { id } });
      await leave(bench, { prompt: " Ishmael", session: { id, commit }, stop }, held ? 5 : 1);
      const sent = bench.latest;
      let after: Completion | undefined;
      for (const began = performance.now(); after === undefined;) {
        expect(performance.now() - began, "ms until the place is free").to.be.below(5000);
        try {
          after = await bench.ask({ ...plain, temperature: 0, max_tokens: 10, session: { id } });
        } catch (error) {
          expect(error).to.be.instanceOf(OpenAI.ConflictError); // the server has not heard of it yet
        }
      }
      const before = after.session!.position - 10;
      using session = await Session.open(model);
      await session.read("Call me");
      const banned = Object.fromEntries(Object.keys(ascii).map((token) => [token, -Infinity]));
      if (commit === "discard") expect(before).to.equal(7);
      else {
        await session.read(" Ishmael");
        let said = "";
        for await (const piece of session.generate({ seed: 3, maxTokens: before - 15, logitBias: banned }))
          said += piece;
        expect(said, "what the session holds").to.equal(sent.text).and.have.length.below(10_000);
      }
      let text = "";
      for await (const piece of session.generate({ temperature: 0, maxTokens: 10, logitBias: banned })) text += piece;
      expect(after.choices[0]!.text).to.equal(text);
    });
  }

  it("that are not streamed and left leave nothing", async () => {
    const id = await bench.service.open(),
      gone = new AbortController();
    const asked = bench.ask({ ...forever, prompt: "Call", session: { id } }, { signal: gone.signal });
    setTimeout(() => gone.abort(), 100);
    expect(await failure(asked)).to.be.instanceOf(OpenAI.APIUserAbortError);
    await idle(bench);
    expect((await bench.service.call("GET", `/v1/sessions/${id}`)).body).to.include({ position: 0 });
  });

  it("tell what fails mid-stream in the stream, without [DONE], and the client throws it", async () => {
    const id = await bench.service.open();
    const stream = await bench.stream({ ...forever, session: { id } });
    const error = await failure(async () => {
      let chunks = 0;
      for await (const chunk of stream) {
        void chunk;
        if (++chunks === 3) await bench.service.call("DELETE", `/v1/sessions/${id}`);
      }
    });
    expect(error).to.be.instanceOf(OpenAI.APIError).and.include({ code: "aborted" });
    const other = await bench.service.open();
    const raw = bench.raw({ ...forever, session: { id: other } });
    await wait(100);
    await bench.service.call("DELETE", `/v1/sessions/${other}`);
    expect((await raw).trimEnd().split("\n\n").at(-1)).to.match(/^data: \{"error":\{"message":"[^"]+","type":/);
  });
});

describe("completions that are refused", function () {
  this.timeout(60_000);
  const tokens = { ada: "a".repeat(16), bob: "b".repeat(16) };

  it("are errors of their classes in OpenAI's client: 401, 404, 409, 429, 503", async () => {
    await using bench = await CompletionBench.start({ tokens, maxTurns: 2, turnsPerClient: 1 }, tokens.ada);
    const { url } = bench.service;
    const as = (apiKey: string, maxRetries = 0): OpenAI => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries });
    const ask = async (client: OpenAI, body = {}): Promise<unknown> =>
      client.completions.create({ model: "memformer", prompt: "x", max_tokens: 1, ...body } as never);
    expect(await failure(ask(as("wrong"))))
      .to.be.instanceOf(OpenAI.AuthenticationError)
      .and.include({ status: 401 });
    expect(await failure(as("wrong").models.retrieve("memformer"))).to.be.instanceOf(OpenAI.AuthenticationError);
    const foreign = await bench.service.open({ authorization: `Bearer ${tokens.bob}` });
    expect(await failure(ask(bench.client, { session: { id: foreign } }))).to.be.instanceOf(OpenAI.NotFoundError);

    const id = await bench.service.open({ authorization: `Bearer ${tokens.ada}` });
    const running = await bench.stream({ ...forever, session: { id } });
    const limited = await failure(ask(bench.client));
    expect(limited).to.be.instanceOf(OpenAI.RateLimitError).and.include({ code: "rate_limited" });
    const { headers } = limited as unknown as { headers: Headers };
    expect([headers.get("retry-after"), headers.get("x-should-retry")]).to.deep.equal(["1", "true"]);
    const second = await as(tokens.bob).completions.create({
      model: "memformer",
      prompt: "x",
      ...forever,
      stream: true,
    } as never);
    await using other = await CompletionBench.start(
      { tokens: { ...tokens, eve: "e".repeat(16) }, maxTurns: 1 },
      tokens.ada,
    );
    const held = await other.stream(forever);
    const busy = await failure(
      ask(new OpenAI({ baseURL: `${other.service.url}/v1`, apiKey: tokens.bob, maxRetries: 0 })),
    );
    expect(busy).to.be.instanceOf(OpenAI.InternalServerError).and.include({ status: 503, code: "overloaded" });
    const many = await failure(other.ask({ prompt: "x", n: 2 }));
    expect(many).to.be.instanceOf(OpenAI.BadRequestError);
    for (const stream of [running, second, held]) (stream as { controller: AbortController }).controller.abort();
  });

  it("are posted again by OpenAI's client where nothing has happened, and a busy session never", async () => {
    await using bench = await CompletionBench.start({ turnsPerClient: 2 });
    const id = await bench.service.open(),
      eager = new OpenAI({ baseURL: `${bench.service.url}/v1`, apiKey: "none", maxRetries: 2 });
    const running = await bench.stream({ ...forever, session: { id } });
    const posts = bench.posts;
    const body = { model: "memformer", prompt: "x", max_tokens: 1 };
    const busy = await failure(eager.completions.create({ ...body, session: { id } } as never));
    expect(busy).to.be.instanceOf(OpenAI.ConflictError).and.include({ code: "busy" });
    expect(bench.posts - posts, "posts of a busy session").to.equal(1);
    const second = await bench.stream({ ...forever, prompt: "y" });
    const refusals = async (): Promise<number> => bench.service.metric('memformer_requests_total{outcome="rejected"}');
    const before = await refusals(),
      again = eager.completions.create(body);
    while ((await refusals()) === before) await wait(5);
    second.controller.abort();
    const { choices } = await again;
    expect(choices).to.have.length(1);
    expect(bench.posts - posts, "a limit that is free again is tried again").to.be.within(4, 5);
    running.controller.abort();
  });

  it("take the places of all their choices at once, or none", async () => {
    await using bench = await CompletionBench.start({ maxTurns: 8 });
    const running = await bench.stream(forever);
    const error = await failure(bench.ask({ prompt: ["a", "b"], n: 4, max_tokens: 1 }));
    expect(error).to.include({ status: 503, code: "overloaded" });
    expect((await bench.ask({ prompt: "a", n: 7, max_tokens: 1 })).choices).to.have.length(7);
    running.controller.abort();
    await idle(bench);
    expect((await bench.ask({ prompt: ["a", "b"], n: 4, max_tokens: 1 })).choices).to.have.length(8);
  });
});

describe("completions without a session", function () {
  this.timeout(120_000);

  it("free their place within a step when they are left, whatever they were doing (35)", async () => {
    // 4 memories of 240 bytes: the others wait to be let in.
    await using bench = await CompletionBench.start({ maxTurns: 16, scheduler: { slots: 4, budgetBytes: 1000 } });
    const long = "x".repeat(50_000);
    for (const body of [
      { stream: true },
      { n: 4, stream: true },
      { n: 16, prompt: "x" },
      {},
      { prompt: long, max_tokens: 1 },
      { prompt: long, max_tokens: 0, echo: true, logprobs: 1 },
      { prompt: long, max_tokens: 0, echo: true, logprobs: 1, stream: true },
    ]) {
      const gone = new AbortController();
      const asked = bench.ask({ ...forever, ...body }, { signal: gone.signal });
      if ("stream" in body) await asked;
      else asked.catch(() => undefined);
      await wait(100);
      gone.abort();
      const began = performance.now();
      for (;;) {
        try {
          await bench.ask({ prompt: "a", n: 16, max_tokens: 1 }); // all places
          break;
        } catch (error) {
          expect(error, JSON.stringify(body).slice(0, 80)).to.include({ status: 503, code: "overloaded" });
          expect(performance.now() - began, "ms until all places are free").to.be.below(5000);
          await wait(5);
        }
      }
    }
  });

  it("never begin for a client that goes while its request is read", async () => {
    await using model = await servedModel();
    const app = Fastify({ forceCloseConnections: true });
    let arrived = 0;
    app.addHook("preHandler", async () => {
      arrived += 1;
      await wait(100);
    });
    await app.register(memformerService, { model, grace: 0, maxTurns: 2 });
    const url = await app.listen({ port: 0, host: "127.0.0.1" });
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
    for (const stream of [false, true]) {
      const gone = new AbortController();
      const body = { model: "memformer", prompt: "x", ...forever, n: 2, stream };
      const asked = client.completions.create(body as never, { signal: gone.signal });
      asked.catch(() => undefined);
      while (arrived === 0) await wait(5);
      arrived = 0;
      gone.abort();
      await wait(200);
      await client.completions.create({ model: "memformer", prompt: "x", n: 2, max_tokens: 1 });
      arrived = 0;
    }
    await app.close();
  });

  it("a reader that stops reading is dropped, and Node warns of nothing (33)", async () => {
    const warnings: Error[] = [],
      warn = (warning: Error): unknown => warnings.push(warning);
    process.on("warning", warn);
    await using model = await servedModel({ segmentLength: 512 });
    await using bench = await CompletionBench.start({ model, readerTimeout: 300, scheduler: { slots: 64 } });
    const { request } = await bench.service.deaf("/v1/completions", loud);
    await running(bench, 64);
    await idle(bench, 30_000); // until the reader is known to be one
    request.destroy();
    process.off("warning", warn);
    expect(warnings).to.deep.equal([]);
  });

  it("keep no connection of a client that does not read the end (33)", async () => {
    const app = Fastify({ forceCloseConnections: true });
    let closed = false;
    app.get("/", async (_, reply) => {
      const events = new EventStream(reply, { pingAfter: 60_000, readerTimeout: 200 });
      reply.raw.once("close", () => (closed = true));
      events.send("x".repeat(32e6)).catch(() => undefined);
      events.end("[DONE]");
      return reply;
    });
    const request = get(await app.listen({ port: 0, host: "127.0.0.1" }));
    request.on("error", () => undefined);
    request.once("response", (response) => response.pause());
    const began = performance.now();
    while (!closed) {
      expect(performance.now() - began, "ms that it is open").to.be.below(3000);
      await wait(20);
    }
    request.destroy();
    await app.close();
  });

  it("do not hold up the server's end when nobody reads them (34)", async () => {
    await using model = await servedModel({ segmentLength: 512 });
    const service = await ServiceBench.start({ model, readerTimeout: 60_000, scheduler: { slots: 64 } });
    const { request } = await service.deaf("/v1/completions", loud);
    while ((await service.metric('memformer_tokens_total{kind="generated"}')) < 128) await wait(20);
    await wait(300);
    const began = performance.now();
    await service[Symbol.asyncDispose]();
    expect(performance.now() - began).to.be.below(5000);
    request.destroy();
  });

  it("end with an error when the server shuts down, scored ones too", async () => {
    const bench = await CompletionBench.start({ grace: 50 });
    const bodies = [
      forever,
      { ...forever, n: 3 },
      { prompt: "x".repeat(50_000), max_tokens: 0, echo: true, logprobs: 1 },
    ];
    const streams = await Promise.all(bodies.map(async (body) => bench.begun(body)));
    const raw = streams.map(async (stream) => stream.text());
    const began = performance.now();
    await bench[Symbol.asyncDispose]();
    expect(performance.now() - began).to.be.below(5000);
    for (const text of await Promise.all(raw))
      expect(text).to.match(/data: \{"error":\{.*"code":"shutting_down"\}\}\n\n$/);
  });

  it("leave nothing behind: 1,000 of them, every fourth left midway", async () => {
    await using bench = await CompletionBench.start({ maxTurns: 64, scheduler: { budgetBytes: 1e9 } });
    const one = async (i: number): Promise<void> => {
      const body = { prompt: `Prompt ${i}`, seed: i, n: 1 + (i % 3), logprobs: i % 2, echo: i % 5 === 0 };
      if (i % 8 === 0) await leave(bench, body);
      else if (i % 8 === 4) {
        const gone = new AbortController();
        setTimeout(() => gone.abort(), 5);
        await bench.ask({ ...forever, ...body }, { signal: gone.signal }).catch(() => undefined);
      } else await bench.ask({ ...body, max_tokens: 3 });
    };
    const run = async (count: number): Promise<void> => {
      let next = 0;
      const worker = async (): Promise<void> => {
        while (next < count) await one(next++);
      };
      await Promise.all(Array.from({ length: 8 }, worker));
      await idle(bench);
    };
    await run(40);
    const { tensors, hostBytes: bytes } = await memoryAtRest();
    const heap = process.memoryUsage().heapUsed;
    await run(1000);
    const after = await memoryAtRest();
    expect([after.tensors, after.hostBytes]).to.deep.equal([tensors, bytes]);
    expect(process.memoryUsage().heapUsed - heap, "bytes of heap").to.be.below(4e6);
    expect((await bench.ask({ prompt: "a", n: 64, max_tokens: 1 })).choices, "every place").to.have.length(64);
    expect((await bench.service.call("GET", "/v1/sessions")).body["ids"], "no store knows them").to.deep.equal([]);
  });

  it("answer 20,000 bodies of any kind in JSON, refuse them in our form, and go on", async () => {
    const unhandled: unknown[] = [],
      note = (error: unknown): unknown => unhandled.push(error);
    process.on("unhandledRejection", note);
    await using model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    await using bench = await CompletionBench.start({ model });
    const { app } = bench.service;
    const sessions = [{ id: await bench.service.open() }, { id: "x".repeat(22) }];
    const bodies = fuzzBodies(completionBody, {
      seed: 20_000,
      fields: {
        model: ["memformer"],
        max_tokens: [0, 1, 2],
        n: [1, 1, 2, null],
        prompt: ["", "naïve", [1, 2], [257], ["a", ""], [[1], [-1]], [[1], [300]]],
        session: [null, null, null, ...sessions],
      },
    });
    const statuses = new Map<number, number>();
    const post = async (): Promise<void> => {
      const { payload, contentType } = bodies.next().value;
      const headers = { "content-type": contentType };
      const {
        statusCode,
        body,
        headers: answered,
      } = await app.inject({ method: "POST", url: "/v1/completions", payload, headers });
      const type = String(answered["content-type"]),
        what = `${contentType} ${payload.slice(0, 500)} -> ${statusCode} ${body.slice(0, 500)}`;
      statuses.set(statusCode, (statuses.get(statusCode) ?? 0) + 1);
      expect(statusCode, what).to.be.oneOf([200, 400, 404, 409, 413, 415]);
      if (type.startsWith("text/event-stream")) {
        expect(statusCode, what).to.equal(200);
        expect(body.endsWith("data: [DONE]\n\n"), what).to.be.true;
      } else {
        expect(type, what).to.match(/^application\/json/);
        const { success } = (statusCode === 200 ? completion : errorBody).safeParse(JSON.parse(body));
        expect(success, what).to.be.true;
        expect(body, what).not.to.match(/\bat .*\.(ts|js):\d/);
      }
    };
    let left = 20_000;
    const worker = async (): Promise<void> => {
      while (left-- > 0) await post();
    };
    await Promise.all(Array.from({ length: 16 }, worker));
    process.off("unhandledRejection", note);
    expect(unhandled).to.deep.equal([]);
    expect(statuses.get(200), "bodies that are right").to.be.above(300);
    expect((await bench.ask({ ...plain, prompt: "Call", max_tokens: 3 })).choices[0]!.text).to.have.length(3);
  });
});
