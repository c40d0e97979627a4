/** 80,000 hostile bodies at the routes of sessions; test/service.openai.turns.spec.ts has another 20,000. */
import { expect } from "chai";
import Fastify, { type FastifyInstance } from "fastify";
import { Random, Session, type Memformer } from "../lib/index.ts";
import { memformerService } from "../lib/service/index.ts";
import { generateBody, readBody } from "../lib/service/schemas.ts";
import { fuzzBodies } from "./support/fuzz-bodies.ts";
import { tinyModel } from "./support/models.ts";

describe("fuzzed bodies", function () {
  this.timeout(600_000);
  let model: Memformer, app: FastifyInstance;
  before(async () => {
    model = await tinyModel({ vocabulary: 257, bos: 256, precision: "float32" });
    app = Fastify();
    await app.register(memformerService, { model });
  });
  after(async () => {
    await app.close();
    await model.dispose();
  });

  /** Posts them, so many at once, and counts the answers by status. Every refusal has the one form. */
  async function post(
    url: string,
    count: number,
    bodyOf: (i: number) => { payload: string | Buffer; contentType: string },
  ): Promise<Map<number, number>> {
    const statuses = new Map<number, number>();
    let next = 0;
    const worker = async (): Promise<void> => {
      while (next < count) {
        const i = next++,
          { payload, contentType } = bodyOf(i);
        const answer = await app.inject({ method: "POST", url, payload, headers: { "content-type": contentType } });
        statuses.set(answer.statusCode, (statuses.get(answer.statusCode) ?? 0) + 1);
        if (answer.statusCode < 300) continue;
        const said = answer.json<{ error: Record<string, unknown> }>();
        expect(Object.keys(said), answer.body).to.deep.equal(["error"]);
        expect(said.error, answer.body).to.have.all.keys("message", "type", "param", "code");
        expect(answer.statusCode, `${String(payload)}\n${answer.body}`).to.be.below(500);
        expect(answer.body).not.to.match(/\bat .*\.(ts|js):\d|node_modules/);
      }
    };
    await Promise.all(Array.from({ length: 4 }, worker));
    return statuses;
  }

  async function open(): Promise<string> {
    return (await app.inject({ method: "POST", url: "/v1/sessions" })).json<{ id: string }>().id;
  }

  for (const [path, schema, count] of [
    ["generate", generateBody, 30_000],
    ["read", readBody, 30_000],
  ] as const) {
    it(`${count} at ${path}: each is answered, none with 5xx, and the session is as good as before`, async () => {
      const id = await open();
      const fields = {
        maxTokens: [0, 1, 2],
        text: ["", "a", "naïve"],
        tokens: [[], [1], [257], [-1]],
        stream: [false],
      };
      const bodies = fuzzBodies(schema, { seed: 1, fields });
      const statuses = await post(`/v1/sessions/${id}/${path}`, count, () => bodies.next().value);
      expect([...statuses.keys()].sort()).to.include.members([200, 400]);
      const { position } = (await app.inject({ url: `/v1/sessions/${id}` })).json<{ position: number }>();
      const payload = { text: "abc", maxTokens: 0 };
      const answer = await app.inject({ method: "POST", url: `/v1/sessions/${id}/generate`, payload });
      expect(answer.json()).to.include({ position: position + 3 });
    });
  }

  it("20000 sessions that are none: refused, and nothing of them stays", async () => {
    using session = await Session.open(model);
    await session.read("Call me Ishmael. Some years ago");
    const saved = Buffer.from(await session.save()),
      random = new Random(3);
    const before = (await app.inject({ url: "/v1/sessions" })).json<{ ids: string[] }>().ids.length;
    const statuses = await post("/v1/sessions", 20_000, (i) => {
      const payload = Buffer.from(i % 3 === 0 ? saved.subarray(0, random.below(saved.length)) : saved);
      for (let flips = 1 + random.below(4); flips > 0 && payload.length > 0; flips--)
        payload[random.below(payload.length)]! ^= 1 << random.below(8);
      // Two flips of one bit are none.
      if (payload.equals(saved)) payload[0]! ^= 1;
      return { payload, contentType: "application/octet-stream" };
    });
    expect([...statuses.keys()]).to.deep.equal([422]);
    expect((await app.inject({ url: "/v1/sessions" })).json<{ ids: string[] }>().ids).to.have.length(before);
  });
});
