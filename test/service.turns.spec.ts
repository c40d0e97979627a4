/** Turns of a service under clients that go, stall, crowd and race: what they leave, and who gets a place. */
import { expect } from "chai";
import Fastify from "fastify";
import { get } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { Session, type GenerateOptions } from "../lib/index.ts";
import { EventStream } from "../lib/service/event-stream.ts";
import type { Ownership, SessionStore } from "../lib/service/index.ts";
import { memoryStore } from "../lib/service/stores/memory.ts";
import { servedModel, ServiceBench, type StreamEvent } from "./support/service.ts";

/** A turn that goes on until something ends it: the document's end is never drawn. */
const endless = { maxTokens: 1_000_000, logitBias: { 256: -100 } };

const text = (events: readonly StreamEvent[]): string => events.map((event) => event.text ?? "").join("");

/** The same turns of a session of the same weights, alone. */
async function alone(input: string, turns: readonly GenerateOptions[]): Promise<string[]> {
  await using model = await servedModel();
  using session = await Session.open(model);
  await session.read(input);
  const made: string[] = [];
  for (const options of turns) {
    let said = "";
    for await (const piece of session.generate(options)) said += piece;
    made.push(said);
  }
  return made;
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  for (const start = performance.now(); !(await holds()); await wait(5))
    if (performance.now() - start > 10_000) throw new Error("it did not come about in 10 s");
}

describe("turns of a service", function () {
  this.timeout(60_000);

  it("leave what was sent when the client goes after the first piece, and the next turn goes on from there", async () => {
    await using bench = await ServiceBench.start();
    const id = await bench.open();
    let sent = "";
    for await (const event of bench.events(id, { ...endless, text: "abc", seed: 1 })) {
      sent += event.text;
      break;
    }
    await until(async () => (await bench.call("GET", `/v1/sessions/${id}`)).body["busy"] === false);
    const { body } = await bench.call("GET", `/v1/sessions/${id}`);
    const committed = (body["position"] as number) - 3;
    expect(committed).to.be.within(1, 20_000); // what was on its way to the client when it went counts as sent
    const [before, after] = await alone("abc", [
      { maxTokens: committed, seed: 1, logitBias: { 256: -Infinity } },
      { maxTokens: 20, seed: 2 },
    ]);
    expect(before!.startsWith(sent)).to.equal(true);
    expect((await bench.generate(id, { maxTokens: 20, seed: 2 })).body["text"]).to.equal(after);
    expect(await bench.metric('memformer_requests_total{outcome="abort"}')).to.equal(1);
    expect(await bench.metric("memformer_requests_running")).to.equal(0);
  });

  it("leave nothing of it when asked to discard, nor of an answer in one piece that nobody waited for", async () => {
    await using bench = await ServiceBench.start();
    const id = await bench.open();
    for await (const event of bench.events(id, { ...endless, text: "abc", onAbort: "discard" }))
      if (event.text !== "") break;
    await until(async () => (await bench.call("GET", `/v1/sessions/${id}`)).body["busy"] === false);
    expect((await bench.call("GET", `/v1/sessions/${id}`)).body["position"]).to.equal(0);

    const gone = new AbortController();
    const asked = fetch(`${bench.url}/v1/sessions/${id}/generate`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...endless, text: "abc" }),
      signal: gone.signal,
    });
    await until(async () => (await bench.metric("memformer_requests_running")) === 1);
    gone.abort();
    await asked.catch(() => undefined);
    await until(async () => (await bench.call("GET", `/v1/sessions/${id}`)).body["busy"] === false);
    expect((await bench.call("GET", `/v1/sessions/${id}`)).body["position"]).to.equal(0);
    expect(await bench.metric("memformer_requests_running")).to.equal(0);
  });

  it("end with what the store says: a turn that could not be committed has not been", async () => {
    const store = memoryStore();
    let failing = false;
    const put: SessionStore["put"] = async (...args) => {
      if (failing) throw new Error("no space left");
      return store.put(...args);
    };
    await using bench = await ServiceBench.start({ store: { ...store, put } });
    const id = await bench.open();
    await bench.generate(id, { text: "abc", maxTokens: 3, seed: 1 });
    failing = true;
    const { status, body, headers } = await bench.generate(id, { maxTokens: 5 });
    expect([status, (body["error"] as { code: string }).code]).to.deep.equal([503, "store_unavailable"]);
    expect(headers.get("x-should-retry")).to.equal("false"); // it may have been written after all: a key tells
    const events = await bench.stream(id, { maxTokens: 5 });
    expect(events.at(-1)!.error!.code).to.equal("store_unavailable");
    failing = false;
    const [, after] = await alone("abc", [
      { maxTokens: 3, seed: 1 },
      { maxTokens: 20, seed: 2 },
    ]);
    expect((await bench.generate(id, { maxTokens: 20, seed: 2 })).body["text"]).to.equal(after);
  });

  it("let go of a session that they leave out of memory, so that another process may have it", async () => {
    const owned = new Set<string>(),
      store = memoryStore();
    let failing = "";
    const ownership: Ownership = {
      acquire: async (id) => {
        owned.add(id);
        return { fence: 1, takenOver: false };
      },
      held: (id) => owned.has(id),
      release: async (id) => void owned.delete(id),
      releaseAll: async () => owned.clear(),
    };
    const failsAt = <Call extends "put" | "delete">(call: Call): SessionStore[Call] =>
      (async (...args: never[]) => {
        if (failing === call) throw new Error("the store is gone");
        return (store[call] as (...given: never[]) => Promise<unknown>)(...args);
      }) as unknown as SessionStore[Call];
    await using bench = await ServiceBench.start({
      ownership,
      store: { ...store, put: failsAt("put"), delete: failsAt("delete") },
    });
    const id = await bench.open();
    expect(owned.size).to.equal(1);
    failing = "put";
    expect((await bench.generate(id, { text: "abc", maxTokens: 1 })).status).to.equal(503);
    expect(owned.size, "after a turn that could not be committed").to.equal(0);
    failing = "delete";
    expect((await bench.call("DELETE", `/v1/sessions/${id}`)).status).to.equal(503);
    expect(owned.size, "after a session that could not be deleted").to.equal(0);
  });

  it("of one session come one after the other: another meanwhile is refused, and not to be repeated", async () => {
    await using bench = await ServiceBench.start();
    const id = await bench.open();
    const events = bench.events(id, { ...endless, text: "abc" });
    await events.next();
    for (const path of ["generate", "read", "branch"]) {
      const { status, headers, body } = await bench.call("POST", `/v1/sessions/${id}/${path}`, { text: "x" });
      if (path === "branch") expect(status).to.be.oneOf([400, 409]);
      else expect([status, (body["error"] as { code: string }).code]).to.deep.equal([409, "busy"]);
      expect(headers.get("x-should-retry")).to.equal("false");
    }
    await events.return(undefined);
    await until(async () => (await bench.generate(id, { text: "x", maxTokens: 1 })).status === 200);
    expect(await bench.metric("memformer_requests_running")).to.equal(0);
  });

  it("that are too long or wrong leave the session's bytes as they were", async () => {
    await using bench = await ServiceBench.start();
    const id = await bench.open(),
      path = `/v1/sessions/${id}`;
    await bench.generate(id, { text: "Call me Ishmael.", maxTokens: 9, seed: 1 });
    const state = async (): Promise<Buffer> =>
      Buffer.from(await (await fetch(`${bench.url}${path}/state`)).arrayBuffer());
    const before = await state();
    const tokens = Array.from({ length: 50 }, (_, i) => i);
    for (const [call, body, status] of [
      ["generate", { text: "x".repeat((1 << 20) + 1) }, 400],
      ["generate", { text: "x".repeat(1 << 23) }, 413],
      ["generate", { text: "abc", maxTokens: 1_000_001 }, 400],
      ["generate", { text: "abc", logitBias: { 257: 1 } }, 400],
      ["generate", { tokens: [...tokens, 257] }, 400],
      ["generate", { tokens: [...tokens, 257], stream: true }, 200],
      ["read", { tokens: [...tokens, 257] }, 400],
      ["read", { text: "x".repeat((1 << 20) + 1) }, 400],
    ] as const) {
      const answer = await bench.call("POST", `${path}/${call}`, body);
      expect(answer.status, JSON.stringify(body).slice(0, 80)).to.equal(status);
      if (status === 200) expect(answer.body).to.match(/^data: \{"error":\{"message":"token 257 at position 50 /);
      expect((await state()).equals(before), JSON.stringify(body).slice(0, 80)).to.equal(true);
    }
  });

  it("end when their session is deleted, and 1,000 races of the two leave nothing behind", async () => {
    const store = memoryStore();
    await using bench = await ServiceBench.start({ store });
    const id = await bench.open();
    const events = bench.events(id, { ...endless, text: "abc" });
    await events.next();
    expect((await bench.call("DELETE", `/v1/sessions/${id}`)).status).to.equal(204);
    let last: StreamEvent = {};
    for await (const event of events) last = event;
    expect(last.error!.code).to.equal("aborted");
    expect((await bench.call("GET", `/v1/sessions/${id}`)).status).to.equal(404);

    const statuses = new Set<number>();
    for (let round = 0; round < 100; round++) {
      await Promise.all(
        Array.from({ length: 10 }, async (_, i) => {
          const each = await bench.open();
          const turn = bench.generate(each, { text: "abc", maxTokens: i });
          if (i % 3 === 0) await wait(i % 5);
          const deleted = bench.call("DELETE", `/v1/sessions/${each}`);
          statuses.add((await turn).status);
          expect((await deleted).status).to.equal(204);
        }),
      );
    }
    expect(
      [...statuses].every((status) => [200, 404, 499].includes(status)),
      [...statuses].join(),
    ).to.equal(true);
    expect((await store.list("")).keys).to.deep.equal([]);
    expect(await bench.metric('memformer_sessions{state="device"}')).to.equal(0);
  });

  it("get a place or are told when to come again: four times more than there are", async () => {
    await using bench = await ServiceBench.start({ maxTurns: 8, scheduler: { slots: 2 } });
    const ids = await Promise.all(Array.from({ length: 32 }, async () => bench.open()));
    const answers = await Promise.all(
      ids.map(async (id) => bench.generate(id, { text: "abc", maxTokens: 40, seed: 1 })),
    );
    const full = answers.filter(({ status }) => status === 503),
      served = answers.filter(({ status }) => status === 200);
    expect(full.length + served.length).to.equal(32);
    expect(served.length).to.be.at.least(8);
    expect(full.length).to.be.above(0);
    for (const { headers } of full) {
      expect(headers.get("retry-after")).to.equal("1");
      expect(headers.get("x-should-retry")).to.equal("true");
    }
    const [expected] = await alone("abc", [{ maxTokens: 40, seed: 1 }]);
    for (const { body } of served) expect(body["text"]).to.equal(expected);
    for (const id of ids) {
      for (;;) {
        const { status, body } = await bench.generate(id, { maxTokens: 1 });
        if (status !== 503) {
          expect(status, JSON.stringify(body)).to.equal(200);
          break;
        }
      }
    }
  });

  it("are counted at every layer: what the scheduler's queue cannot take is refused as what the server cannot", async () => {
    // Room for one, and one that waits for it.
    await using bench = await ServiceBench.start({ scheduler: { slots: 1, budgetBytes: 300, maxWaiting: 1 } });
    const [first, second, third] = [await bench.open(), await bench.open(), await bench.open()];
    const events = bench.events(first, { ...endless, text: "abc" });
    await events.next();
    const waiting = bench.generate(second, { text: "abc", maxTokens: 2 });
    await until(async () => (await bench.metric("memformer_requests_waiting")) === 1);
    for (const refused of [
      await bench.generate(third, { text: "abc", maxTokens: 2 }),
      await bench.generate(third, { text: "abc", maxTokens: 2, stream: true }),
      await bench.call("POST", "/v1/completions", { model: "memformer", prompt: "abc", max_tokens: 2 }),
    ]) {
      expect([refused.status, (refused.body["error"] as { code: string } | undefined)?.code]).to.deep.equal([
        503,
        "overloaded",
      ]);
      expect(refused.headers.get("retry-after")).to.equal("1");
      expect(refused.headers.get("x-should-retry")).to.equal("true");
    }
    await events.return(undefined);
    expect((await waiting).status).to.equal(200);
    expect((await bench.generate(third, { text: "abc", maxTokens: 2 })).body["position"]).to.equal(5);
  });

  it("are limited for each client", async () => {
    const tokens = { ada: "0123456789abcdef-ada", bob: "0123456789abcdef-bob" };
    await using bench = await ServiceBench.start({ tokens, turnsPerClient: 1, requestsPerMinute: 20 });
    const [ada, bob] = [`Bearer ${tokens.ada}`, `Bearer ${tokens.bob}`].map((authorization) => ({ authorization }));
    const [one, two, other] = [await bench.open(ada), await bench.open(ada), await bench.open(bob)];
    const events = bench.events(one, { ...endless, text: "abc" }, ada);
    await events.next();
    const refused = await bench.generate(two, { maxTokens: 1 }, ada);
    expect([refused.status, refused.headers.get("retry-after")]).to.deep.equal([429, "1"]);
    expect((await bench.generate(other, { maxTokens: 1 }, bob)).status).to.equal(200);
    await events.return(undefined);
    let last = refused;
    for (let i = 0; i < 20; i++) last = await bench.call("GET", "/v1/sessions", undefined, ada);
    expect([last.status, (last.body["error"] as { code: string }).code]).to.deep.equal([429, "rate_limited"]);
    expect(Number(last.headers.get("retry-after"))).to.be.within(1, 60);
    expect((await bench.call("GET", "/v1/sessions", undefined, bob)).status).to.equal(200);
  });

  it("are dropped when nobody reads their stream, and keep what was sent", async () => {
    await using bench = await ServiceBench.start({ readerTimeout: 2000, scheduler: { slots: 1 } });
    const id = await bench.open();
    const { request } = await bench.deaf(`/v1/sessions/${id}/generate`, {
      ...endless,
      text: "abc",
      stream: true,
      logprobs: 100, // large events fill the socket sooner
    });
    let drawn = 0;
    await until(async () => {
      const before = drawn;
      await wait(100);
      drawn = await bench.metric('memformer_tokens_total{kind="generated"}');
      return before > 0 && drawn === before;
    });
    const { busy } = (await bench.call("GET", `/v1/sessions/${id}`)).body;
    expect(busy, "it pauses before it is dropped: nothing heaps up").to.equal(true);
    await until(async () => (await bench.call("GET", `/v1/sessions/${id}`)).body["busy"] === false);
    expect((await bench.call("GET", `/v1/sessions/${id}`)).body["position"]).to.be.above(3);
    expect((await bench.generate(id, { maxTokens: 2 })).status).to.equal(200);
    request.destroy();
  });

  it("wait with a ping, headers first", async () => {
    await using bench = await ServiceBench.start({ pingAfter: 20, scheduler: { slots: 1, maxAhead: 1 } });
    const id = await bench.open();
    const long = "x".repeat(1 << 20);
    const response = await fetch(`${bench.url}/v1/sessions/${id}/generate`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ text: long, maxTokens: 1, stream: true }),
    });
    expect(response.headers.get("content-type")).to.match(/^text\/event-stream/);
    expect(response.headers.get("memformer-session")).to.equal(id);
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader.read()).value).to.match(/^: ping\n\n/);
    await reader.cancel();
  });

  it("send no ping to a client that does not read", async () => {
    const app = Fastify({ forceCloseConnections: true });
    let pings = 0;
    app.get("/", async (_, reply) => {
      const events = new EventStream(reply, { pingAfter: 10, readerTimeout: 60_000 }),
        { raw } = reply,
        write = raw.write.bind(raw) as (data: string) => boolean;
      raw.write = (data: string) => {
        if (data.startsWith(": ping")) pings++;
        return write(data);
      };
      events.send("x".repeat(32e6)).catch(() => undefined);
      return reply;
    });
    const request = get(await app.listen({ port: 0, host: "127.0.0.1" }));
    request.on("error", () => undefined);
    const response = await new Promise<{ pause(): void }>((resolve) => request.once("response", resolve));
    response.pause();
    await wait(300);
    expect(pings).to.equal(0);
    request.destroy();
    await app.close();
  });

  it("go on over a WebSocket, one at a time, and stop when told", async () => {
    await using bench = await ServiceBench.start();
    const id = await bench.open();
    const { WebSocket } = await import("ws");
    const socket = new WebSocket(`${bench.url.replace("http", "ws")}/v1/sessions/${id}/socket`);
    const messages: StreamEvent[] = [];
    socket.on("message", (data: Buffer) => messages.push(JSON.parse(data.toString()) as StreamEvent));
    await new Promise((resolve) => socket.once("open", resolve));
    const ended = async (type: string): Promise<StreamEvent> => {
      await until(async () => messages.some((message) => message["type"] === type));
      const all = messages.splice(0);
      return { ...all.find((message) => message["type"] === type), text: text(all) };
    };
    socket.send(JSON.stringify({ type: "generate", text: "abc", maxTokens: 20, seed: 1 }));
    const [expected] = await alone("abc", [{ maxTokens: 20, seed: 1 }]);
    expect(await ended("done")).to.include({ text: expected, finish: "length", position: 23 });
    for (const bad of ["{", '{"type":"generate","maxTokens":-1}', '{"type":"dance"}', "null"]) {
      socket.send(bad);
      expect((await ended("error")).error!.code).to.equal("invalid_request");
    }
    socket.send(JSON.stringify({ type: "generate", ...endless }));
    await until(async () => messages.length > 2);
    socket.send(JSON.stringify({ type: "generate", maxTokens: 1 }));
    expect((await ended("error")).error!.code).to.equal("busy");
    socket.send(JSON.stringify({ type: "stop" }));
    await until(async () => messages.some(({ error }) => error?.code === "aborted"));
    expect((await bench.generate(id, { maxTokens: 1 })).status).to.equal(200);
    socket.terminate();
  });

  it("50 open ones end within the grace when the server closes, all of them saved", async () => {
    const store = memoryStore();
    await using model = await servedModel();
    const bench = await ServiceBench.start({ model, store, grace: 100, scheduler: { slots: 16 } });
    const ids = await Promise.all(Array.from({ length: 50 }, async () => bench.open()));
    const streams = ids.map(async (id, i) => {
      let said = "",
        last: StreamEvent = {};
      for await (const event of bench.events(id, { ...endless, text: `${i}`, seed: i })) {
        said += event.text ?? "";
        last = event;
      }
      return { id, said, last };
    });
    const idle = await fetch(`${bench.url}/live`); // keeps its connection
    await idle.text();
    await until(async () => (await bench.metric("memformer_requests_running")) === 50);
    await wait(100);
    const start = performance.now();
    await bench.app.close();
    expect(performance.now() - start).to.be.below(10_000);
    await using next = await ServiceBench.start({ model, store });
    for (const { id, said, last } of await Promise.all(streams)) {
      expect(last.error?.code, JSON.stringify(last)).to.equal("shutting_down");
      const { position } = (await next.call<{ position: number }>("GET", `/v1/sessions/${id}`)).body;
      expect(position).to.be.at.least(said.length);
    }
  });
});
