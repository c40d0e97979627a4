/** What those who run a service look at: health, metrics, the description of its API; and the plugin in a host. */
import { Validator } from "@seriousme/openapi-schema-validator";
import { expect } from "chai";
import Fastify from "fastify";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as wait } from "node:timers/promises";
import { register, Registry } from "prom-client";
import { fairPolicy, type SchedulerPolicy } from "../lib/index.ts";
import { memformerService } from "../lib/service/index.ts";
import { serve } from "../lib/service/serve.ts";
import { failure } from "./support/failure.ts";
import { servedModel, ServiceBench } from "./support/service.ts";

const docs = readFileSync(new URL("../docs/service.md", import.meta.url), "utf8");

describe("the operation of a service", function () {
  this.timeout(60_000);

  it("is ready while it makes progress, and says why it is not", async () => {
    let dead = false;
    const fair = fairPolicy(),
      policy: SchedulerPolicy = { ...fair, decode: (ready, slots) => (dead ? [] : fair.decode(ready, slots)) };
    await using bench = await ServiceBench.start({ stallAfter: 150, scheduler: { slots: 1, policy } });
    expect((await bench.call("GET", "/live")).body).to.deep.equal({ live: true });
    expect((await bench.call("GET", "/ready")).body).to.deep.equal({ ready: true });
    const id = await bench.open();
    const turn = { maxTokens: 2, logitBias: { 256: -100 } };
    expect((await bench.generate(id, turn)).status).to.equal(200);
    await wait(400); // nobody wants anything
    expect((await bench.call("GET", "/ready")).status).to.equal(200);
    dead = true; // a turn waits, and no step ends
    const generating = bench.generate(id, turn);
    await wait(400);
    expect((await bench.call("GET", "/live")).status).to.equal(200);
    const { status, body: said } = await bench.call("GET", "/ready");
    expect([status, said["ready"]]).to.deep.equal([503, false]);
    expect(said["reason"]).to.match(/no step has ended/);
    dead = false;
    expect((await generating).status).to.equal(200);
    expect((await bench.call("GET", "/ready")).status).to.equal(200);
  });

  it("is ready while turns wait for their clients: for a text that stalls, or for pieces to be read", async () => {
    await using bench = await ServiceBench.start({ stallAfter: 1000, scheduler: { slots: 1 } });
    const id = await bench.open();
    let parts = (): void => undefined;
    const stalled = new Promise<void>((resolve) => (parts = resolve));
    const body = new ReadableStream({
      async pull(controller) {
        controller.enqueue(new TextEncoder().encode("x"));
        await stalled;
        controller.close();
      },
    });
    const init = { method: "POST", headers: { "content-type": "text/plain" }, body, duplex: "half" } as RequestInit;
    const reading = fetch(`${bench.url}/v1/sessions/${id}/read`, init);
    const { request } = await bench.deaf(`/v1/sessions/${await bench.open()}/generate`, {
      text: "abc",
      maxTokens: 1_000_000,
      logitBias: { 256: -100 },
      stream: true,
      logprobs: 100,
    });
    let drawn = -1;
    for (let before = -2; before !== drawn;) {
      await wait(400);
      before = drawn;
      drawn = await bench.metric('memformer_tokens_total{kind="generated"}');
      expect((await bench.call("GET", "/ready")).body).to.deep.equal({ ready: true });
    }
    await wait(1500); // both wait for their clients, longer than a stall may last
    expect((await bench.call("GET", "/ready")).body).to.deep.equal({ ready: true });
    expect(await bench.metric("memformer_requests_running")).to.equal(2);
    parts();
    expect((await reading).status).to.equal(200);
    expect((await bench.call("GET", "/ready")).status).to.equal(200);
    request.destroy();
  });

  it("is not ready when turns are kept out by those that wait for their clients", async () => {
    await using bench = await ServiceBench.start({ stallAfter: 150, scheduler: { budgetBytes: 300 } }); // room for one
    const gone = new AbortController(),
      body = new ReadableStream({
        pull: async (controller) => {
          controller.enqueue(new Uint8Array([120]));
          await new Promise(() => undefined);
        },
      });
    const path = `${bench.url}/v1/sessions/${await bench.open()}/read`,
      headers = { "content-type": "text/plain" };
    const reading = fetch(path, { method: "POST", headers, body, duplex: "half", signal: gone.signal });
    while ((await bench.metric("memformer_requests_running")) === 0) await wait(5);
    await wait(300);
    expect((await bench.call("GET", "/ready")).status).to.equal(200);
    const kept = bench.generate(await bench.open(), { text: "abc", maxTokens: 1 });
    await wait(300);
    expect((await bench.call("GET", "/ready")).status).to.equal(503);
    gone.abort();
    await reading.catch(() => undefined);
    expect((await kept).status).to.equal(200);
    expect((await bench.call("GET", "/ready")).status).to.equal(200);
  });

  it("is ready under load, however often it is asked", async () => {
    await using bench = await ServiceBench.start({ stallAfter: 500 });
    const ids = await Promise.all(Array.from({ length: 16 }, async () => bench.open()));
    const turns = ids.map(async (id) => bench.generate(id, { text: "abc", maxTokens: 300, logitBias: { 256: -100 } }));
    let over = false,
      longest = 0;
    void Promise.all(turns).then(() => (over = true));
    while (!over)
      for (const path of ["/ready", "/live"]) {
        const asked = performance.now();
        expect((await bench.call("GET", path)).status).to.equal(200);
        longest = Math.max(longest, performance.now() - asked);
      }
    expect(longest, "ms that a probe waits").to.be.below(2000);
  });

  it("ends no request for taking long: uploads may last for hours", async () => {
    await using model = await servedModel();
    const { app } = await serve({ model, port: 0, logLevel: "silent" });
    const { requestTimeout, timeout } = app.server;
    await app.close();
    expect([requestTimeout, timeout]).to.deep.equal([0, 0]);
  });

  it("shows metrics that Prometheus reads, each of them documented, with no value of a user's in a label", async function () {
    await using bench = await ServiceBench.start();
    const id = await bench.open();
    await bench.generate(id, { text: "abcdefghijkl", maxTokens: 6, logitBias: { 256: -100 } });
    const { body, headers } = await bench.call<string>("GET", "/metrics");
    expect(headers.get("content-type")).to.equal("text/plain; version=0.0.4; charset=utf-8");
    for (const [name, value] of [
      ['memformer_tokens_total{kind="read"}', 12],
      ['memformer_tokens_total{kind="generated"}', 6],
      ["memformer_segments_total", 3],
      ['memformer_requests_total{outcome="length"}', 1],
      ["memformer_time_to_first_token_seconds_count", 1],
      ['memformer_sessions{state="device"}', 1],
    ] as const)
      expect(await bench.metric(name), name).to.equal(value);
    expect(await bench.metric("memformer_last_step_timestamp_seconds")).to.be.closeTo(Date.now() / 1000, 5);
    expect(body).not.to.include(id);
    const names = [...body.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name!);
    for (const name of names) expect(docs, name).to.include(`\`${name}\``);
    const checked = spawnSync("promtool", ["check", "metrics"], { input: body, encoding: "utf8" });
    if (checked.error !== undefined) this.skip(); // promtool is not installed
    expect(checked.stderr + checked.stdout).to.equal("");
    expect(checked.status).to.equal(0);
  });

  it("puts its metrics into the host's registry", async () => {
    const registry = new Registry();
    await using bench = await ServiceBench.start({ metricsRegistry: registry });
    const id = await bench.open();
    await bench.generate(id, { text: "abc", maxTokens: 2, logitBias: { 256: -100 } });
    const text = await registry.metrics();
    expect(text).to.match(/^memformer_tokens_total\{kind="read"\} 3$/m);
    expect(text).to.match(/^memformer_step_seconds_bucket\{le="\+Inf"\} \d+$/m);
    expect(text).to.match(/^# TYPE memformer_store_seconds histogram$/m);
    expect(await register.metrics()).not.to.include("memformer");
  });

  it("describes its API", async () => {
    await using bench = await ServiceBench.start();
    const { body } = await bench.call("GET", "/openapi.json");
    const { valid, errors } = await new Validator().validate(body);
    expect(valid, JSON.stringify(errors)).to.equal(true);
    const paths = body["paths"] as Record<string, Record<string, { requestBody?: { content: object } }>>;
    expect(Object.keys(paths)).to.include.members(["/v1/sessions", "/v1/sessions/{id}/generate", "/v1/model"]);
    expect(Object.keys(paths["/v1/sessions/{id}/read"]!["post"]!.requestBody!.content)).to.have.members([
      "application/json",
      "text/plain",
    ]);
    for (const path of Object.keys(paths))
      expect(docs).to.include(path.replace("{id}", ":id").replace("{model}", ":model"));
  });

  it("lives in a service of its host's, under a prefix, and leaves the host's own errors alone", async () => {
    await using model = await servedModel();
    const app = Fastify();
    app.get("/fail", async () => {
      throw new Error("the host's");
    });
    await app.register(memformerService, { model, prefix: "/memory" });
    try {
      const made = await app.inject({ method: "POST", url: "/memory/v1/sessions" });
      expect(made.statusCode).to.equal(201);
      const missing = await app.inject({ url: "/memory/v1/sessions/nope" });
      expect(missing.json<{ error: { code: string } }>().error.code).to.equal("invalid_request");
      const failed = await app.inject({ url: "/fail" });
      expect(failed.json()).to.deep.equal({ statusCode: 500, error: "Internal Server Error", message: "the host's" });
      expect((await app.inject({ url: "/memory/metrics" })).body).to.match(/^# HELP memformer_sessions /m);
    } finally {
      await app.close();
    }
  });

  it("refuses options that are none, and names the one meant", async () => {
    await using model = await servedModel();
    for (const [options, message] of [
      [{ model, maxTurn: 3 }, /maxTurn.*did you mean "maxTurns"/],
      [{ model, maxTurns: 0 }, /maxTurns/],
      [{ model: undefined }, /model/],
      [{ model, tokens: { a: "short" } }, /tokens: .*16 characters/],
      [{ model, tokens: { "a b": "0123456789abcdef" } }, /client "a b"/],
    ] as const) {
      const app = Fastify();
      const error = await failure(async () => {
        await app.register(memformerService, options as never);
      });
      expect(error.message).to.match(message);
      await app.close();
    }
  });
});
