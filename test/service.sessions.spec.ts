/** Sessions over HTTP: what a turn is, what it commits, and what is refused how. */
import { expect } from "chai";
import { Session } from "../lib/index.ts";
import { packRecord, unpackRecord } from "../lib/service/record.ts";
import { memoryStore } from "../lib/service/stores/memory.ts";
import { servedModel, ServiceBench, type StreamEvent } from "./support/service.ts";

const text = (events: readonly StreamEvent[]): string => events.map((event) => event.text ?? "").join("");

/** What a session makes alone, token by token. */
async function alone(turns: readonly { input?: string; maxTokens: number; seed: number }[]): Promise<string[]> {
  await using model = await servedModel();
  using session = await Session.open(model);
  const made: string[] = [];
  for (const { input, ...options } of turns) {
    if (input !== undefined) await session.read(input);
    let said = "";
    for await (const piece of session.generate(options)) said += piece;
    made.push(said);
  }
  return made;
}

describe("sessions over HTTP", function () {
  this.timeout(60_000);

  it("make what a session makes alone, as JSON and as a stream", async () => {
    await using bench = await ServiceBench.start();
    const [first, second] = await alone([
      { input: "Call me Ishmael.", maxTokens: 30, seed: 1 },
      { maxTokens: 20, seed: 2 },
    ]);
    const id = await bench.open();
    const { status, body } = await bench.generate(id, { text: "Call me Ishmael.", maxTokens: 30, seed: 1 });
    expect(status).to.equal(200);
    expect(body).to.include({ id, text: first, finish: "length", seed: 1, position: 46 });
    expect(body["usage"]).to.deep.equal({ read: 16, generated: 30 });
    const events = await bench.stream(id, { maxTokens: 20, seed: 2 });
    expect(text(events)).to.equal(second);
    expect(events.at(-1)).to.deep.equal({ done: true });
    expect(events.at(-2)).to.include({ finish: "length", seed: 2, position: 66 });
    expect(events.slice(0, -2).map(({ finish }) => finish)).to.deep.equal(Array(events.length - 2).fill(null));
  });

  it("read a text of any length as a stream, all of it or nothing", async () => {
    await using bench = await ServiceBench.start();
    const id = await bench.open(),
      path = `${bench.url}/v1/sessions/${id}/read`,
      headers = { "content-type": "text/plain" };
    const part = new TextEncoder().encode("naïve ".repeat(2000));
    const body = ReadableStream.from([part.subarray(0, 3), part.subarray(3, 8001), part.subarray(8001)]);
    const init = { method: "POST", headers, body, duplex: "half" } as RequestInit;
    expect(await (await fetch(path, init)).json()).to.deep.equal({ id, position: 14_000, read: 14_000 });

    const read = async (): Promise<number> => bench.metric('memformer_tokens_total{kind="read"}');
    const before = await read();
    let pulls = 0;
    const broken = new ReadableStream({
      async pull(controller) {
        if (pulls++ === 0) return controller.enqueue(part.subarray(0, 8001));
        for (let i = 0; i < 5000 && (await read()) === before; i++);
        controller.error(new Error("the uploader fell over"));
      },
    });
    await fetch(path, { ...init, body: broken }).catch(() => undefined);
    while ((await bench.call("GET", `/v1/sessions/${id}`)).body["busy"] === true);
    expect((await bench.call("GET", `/v1/sessions/${id}`)).body).to.include({ position: 14_000 });
  });

  it("go away and come back as bytes, and branch", async () => {
    await using bench = await ServiceBench.start();
    const id = await bench.open();
    await bench.generate(id, { text: "It was the best of times", maxTokens: 7, seed: 3 });
    const saved = await fetch(`${bench.url}/v1/sessions/${id}/state`);
    expect(saved.headers.get("content-type")).to.equal("application/octet-stream");
    const bytes = await saved.arrayBuffer();
    const restored = await fetch(`${bench.url}/v1/sessions`, {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: bytes,
    });
    expect(restored.status).to.equal(201);
    const { id: again } = (await restored.json()) as { id: string };
    const { status, body } = await bench.call("POST", `/v1/sessions/${id}/branch`);
    expect(status).to.equal(201);
    const texts = [];
    for (const each of [id, again, body["id"] as string])
      texts.push((await bench.generate(each, { maxTokens: 40, seed: 9 })).body["text"]);
    expect(new Set(texts).size).to.equal(1);
    const { body: list } = await bench.call<{ ids: string[] }>("GET", "/v1/sessions");
    expect(list.ids).to.have.members([id, again, body["id"]]);
    expect((await bench.call("DELETE", `/v1/sessions/${id}`)).status).to.equal(204);
    expect((await bench.call("GET", `/v1/sessions/${id}`)).status).to.equal(404);
    expect((await bench.call("DELETE", `/v1/sessions/${id}`)).status).to.equal(404);
    expect((await bench.generate(again, { maxTokens: 1 })).status).to.equal(200);
  });

  it("leave memory when they are idle or many, and come back with their next turn", async () => {
    for (const options of [{ idleAfter: 0 }, { liveSessions: 0 }]) {
      await using bench = await ServiceBench.start(options);
      const [expected] = await alone([{ input: "abc", maxTokens: 50, seed: 5 }]);
      const id = await bench.open();
      await bench.generate(id, { text: "abc", maxTokens: 0 });
      expect(await bench.metric('memformer_sessions{state="device"}')).to.equal(0);
      expect((await bench.generate(id, { maxTokens: 50, seed: 5 })).body["text"]).to.equal(expected);
    }
  });

  it("that leave memory at once, under load, are each the same as alone", async () => {
    await using bench = await ServiceBench.start({ idleAfter: 1, liveSessions: 0, scheduler: { slots: 2 } });
    const turns = (i: number): { input: string; maxTokens: number; seed: number }[] =>
      [0, 1, 2].map((turn) => ({ input: `${i}, ${turn}: `, maxTokens: 5 + 15 * i, seed: i }));
    const clients = await Promise.all(
      Array.from({ length: 12 }, async (_, i) => ({ id: await bench.open(), expected: await alone(turns(i)) })),
    );
    // All at once: one's end is the moment at which others are looked at, in the middle of theirs.
    await Promise.all(
      clients.map(async ({ id, expected }, i) => {
        for (const [turn, { input, ...options }] of turns(i).entries()) {
          const { body } = await bench.generate(id, { text: input, ...options });
          expect(body["text"], JSON.stringify(body)).to.equal(expected[turn]);
        }
      }),
    );
    expect(await bench.metric('memformer_sessions{state="device"}')).to.equal(0);
  });

  it("survive the process: another one over the same store goes on", async () => {
    const store = memoryStore();
    const [first, second] = await alone([
      { input: "abc", maxTokens: 11, seed: 5 },
      { maxTokens: 11, seed: 6 },
    ]);
    let id: string;
    {
      await using bench = await ServiceBench.start({ store });
      id = await bench.open();
      expect((await bench.generate(id, { text: "abc", maxTokens: 11, seed: 5 })).body["text"]).to.equal(first);
    }
    await using bench = await ServiceBench.start({ store });
    expect((await bench.generate(id, { maxTokens: 11, seed: 6 })).body["text"]).to.equal(second);
  });

  it("whose record a later version wrote are refused as such, not half understood, and are left as they are", async () => {
    const store = memoryStore();
    let id: string;
    {
      await using bench = await ServiceBench.start({ store });
      id = await bench.open();
    }
    const key = `session.public.${id}`;
    let { version, bytes } = (await store.get(key))!;
    const { header, session } = unpackRecord(bytes),
      magic = Buffer.from(bytes);
    magic.write("MFsrvc2\n", "latin1");
    await using bench = await ServiceBench.start({ store });
    for (const [changed, message] of [
      [magic, /a later version of memformer wrote it/],
      [packRecord({ ...header, reads: "other tokens" } as never, session), /its header is not what was written/],
    ] as const) {
      version = await store.put(key, changed, { ifVersion: version });
      for (const [method, path] of [
        ["GET", ""],
        ["POST", "/generate"],
      ] as const) {
        const { status, body } = await bench.call<{ error: { message: string } }>(
          method,
          `/v1/sessions/${id}${path}`,
          method === "POST" ? { maxTokens: 1 } : undefined,
        );
        expect(status).to.equal(422);
        expect(body.error.message).to.match(message);
      }
      ({ bytes } = (await store.get(key))!);
      expect(Buffer.from(bytes).equals(changed)).to.equal(true);
    }
  });

  it("are each client's own, behind a token", async () => {
    const tokens = { ada: "0123456789abcdef-ada", bob: "0123456789abcdef-bob" };
    await using bench = await ServiceBench.start({ tokens });
    const of = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` });
    const id = await bench.open(of(tokens.ada));
    const look = async (headers: Record<string, string>): Promise<[number, unknown]> => {
      const { status, body } = await bench.call<{ error?: { code: string } }>(
        "GET",
        `/v1/sessions/${id}`,
        undefined,
        headers,
      );
      return [status, body.error?.code];
    };
    expect(await look(of(tokens.ada))).to.deep.equal([200, undefined]);
    expect(await look(of(tokens.bob))).to.deep.equal([404, "not_found"]);
    expect(await look({})).to.deep.equal([401, "unauthorized"]);
    expect(await look(of("0123456789abcdef-eve"))).to.deep.equal([401, "unauthorized"]);
    expect(await look({ authorization: `Basic ${tokens.ada}` })).to.deep.equal([401, "unauthorized"]);
    expect((await bench.call("GET", "/v1/sessions", undefined, of(tokens.bob))).body["ids"]).to.deep.equal([]);
    expect((await bench.call("GET", "/live")).status).to.equal(200);
  });

  it("answer a call with the same idempotency key once, whoever sends it again", async () => {
    await using bench = await ServiceBench.start();
    const key = { "idempotency-key": "order-1" };
    const made = await bench.call("POST", "/v1/sessions", undefined, key),
      again = await bench.call("POST", "/v1/sessions", undefined, key);
    expect([made.status, again.status, again.body["id"]]).to.deep.equal([201, 201, made.body["id"]]);
    const id = made.body["id"] as string;
    const body = { text: "once", maxTokens: 9 };
    const first = await bench.generate(id, body, key),
      second = await bench.generate(id, body, key);
    expect(second.body).to.deep.equal({ ...first.body, replayed: true });
    expect((await bench.call("GET", `/v1/sessions/${id}`)).body["position"]).to.equal(13);
    const other = await bench.generate(id, { ...body, maxTokens: 10 }, key);
    expect([other.status, (other.body["error"] as { code: string }).code]).to.deep.equal([
      422,
      "idempotency_key_reused",
    ]);
    const streamed = await bench.stream(id, { maxTokens: 8 }, { "idempotency-key": "s" }),
      replay = await bench.stream(id, { maxTokens: 8 }, { "idempotency-key": "s" });
    expect(text(replay)).to.equal(text(streamed));
    expect((await bench.call("GET", `/v1/sessions/${id}`)).body["position"]).to.equal(21);
    const branch = async (): Promise<unknown> =>
      (await bench.call("POST", `/v1/sessions/${id}/branch`, undefined, key)).body["id"];
    expect(await branch()).to.equal(await branch());
  });

  it("refuse what is no request in a sentence that names the field", async () => {
    await using bench = await ServiceBench.start();
    const id = await bench.open();
    const refused = async (path: string, body: object, headers?: Record<string, string>): Promise<[number, string]> => {
      const answer = await bench.call<{ error: { message: string } }>("POST", path, body, headers);
      return [answer.status, answer.body.error.message];
    };
    const generate = `/v1/sessions/${id}/generate`;
    expect(await refused(generate, { maxTokns: 3 })).to.deep.equal([
      400,
      'there is no option "maxTokns"; did you mean "maxTokens"?',
    ]);
    for (const [body, message] of [
      [{ maxTokens: -1 }, /^maxTokens: /],
      [{ text: "a", tokens: [1] }, /text or tokens/],
      [{ tokens: [257] }, /token 257 at position 0 is outside the vocabulary of 257/],
      [{ text: "\ud800" }, /surrogate/],
      [{ stop: [""] }, /^stop/],
      [{ logitBias: { 300: 1 } }, /300/],
      [{ seed: 0.5 }, /^seed: /],
    ] as const) {
      const [status, said] = await refused(generate, body);
      expect(status, said).to.equal(400);
      expect(said).to.match(message);
    }
    expect((await refused("/v1/sessions/..%2f..%2fetc%2fpasswd/generate", {}))[0]).to.equal(400);
    expect((await refused(`/v1/sessions/${"A".repeat(22)}/generate`, {}))[0]).to.equal(404);
    expect((await refused(generate, {}, { "idempotency-key": "a b" }))[0]).to.equal(400);
    expect((await refused(`/v1/sessions/${id}/read`, {}))[0]).to.equal(400);
    expect((await bench.call("GET", `/v1/sessions/${id}`)).body["position"]).to.equal(0);
  });

  it("refuse foreign, cut and hostile bytes, and name what is wrong", async () => {
    await using bench = await ServiceBench.start();
    await using model = await servedModel({ memorySlots: 4 });
    using session = await Session.open(model);
    const foreign = await session.save();
    const post = async (body: Uint8Array<ArrayBuffer>): Promise<{ status: number; message: string }> => {
      const headers = { "content-type": "application/octet-stream" };
      const response = await fetch(`${bench.url}/v1/sessions`, { method: "POST", headers, body });
      return {
        status: response.status,
        message: ((await response.json()) as { error: { message: string } }).error.message,
      };
    };
    expect(await post(new Uint8Array(foreign))).to.deep.include({ status: 422 });
    expect((await post(new Uint8Array(foreign))).message).to.match(/of another model/);
    expect((await post(new Uint8Array(foreign.subarray(0, 99)))).status).to.equal(422);
    expect((await post(new Uint8Array(0))).status).to.equal(422);
    expect((await post(new Uint8Array(1000).fill(255))).status).to.equal(422);
    expect((await bench.call("GET", "/v1/sessions")).body["ids"]).to.deep.equal([]);
  });
});
