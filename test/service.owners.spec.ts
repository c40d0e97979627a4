/** Services over one store: one has a session at a time, and none writes over what another has written. */
import { expect } from "chai";
import { setTimeout as wait } from "node:timers/promises";
import { Session, type Memformer } from "../lib/index.ts";
import { Leases, type SessionStore } from "../lib/service/index.ts";
import { memoryStore } from "../lib/service/stores/memory.ts";
import { servedModel, ServiceBench, type Answer } from "./support/service.ts";

/** What the session makes of these turns alone. */
async function alone(model: Memformer, turns: readonly { text: string; maxTokens: number; seed: number }[]) {
  using session = await Session.open(model);
  const made: string[] = [];
  for (const { text, ...options } of turns) {
    await session.read(text);
    let said = "";
    for await (const piece of session.generate(options)) said += piece;
    made.push(said);
  }
  return made;
}

const codeOf = ({ body }: Answer): string | undefined => (body["error"] as { code: string } | undefined)?.code;

describe("services over one store", function () {
  this.timeout(60_000);
  const one = { text: "one", maxTokens: 9, seed: 1 },
    two = { text: "two", maxTokens: 9, seed: 2 };
  let model: Memformer;
  before(async () => {
    model = await servedModel();
  });
  after(async () => model.dispose());

  async function owning(name: string, store: SessionStore, ttl = 15): Promise<ServiceBench> {
    return ServiceBench.start({ model, store, ownership: new Leases(store, { name, url: `http://${name}`, ttl }) });
  }

  /** A session that nobody has in memory. */
  async function left(store: SessionStore): Promise<string> {
    await using bench = await ServiceBench.start({ model, store });
    return await bench.open();
  }

  /** Both turns at once, one at each; then the one that was refused once more, where it is to be sent. */
  async function race(a: ServiceBench, b: ServiceBench, id: string, code: string, repeated: "there" | "again") {
    const answers = await Promise.all([a.generate(id, one), b.generate(id, two)]);
    expect(answers.map(({ status }) => status).toSorted()).to.deep.equal([200, 409]);
    const won = answers[0].status === 200 ? 0 : 1,
      [first, lost] = won === 0 ? answers : [answers[1], answers[0]];
    expect(codeOf(lost)).to.equal(code);
    expect(lost.headers.get("x-should-retry")).to.equal("false");
    const at = (repeated === "there") === (won === 0) ? a : b;
    const then = await at.generate(id, won === 0 ? two : one);
    expect(then.status, JSON.stringify(then.body)).to.equal(200);
    const expected = await alone(model, won === 0 ? [one, two] : [two, one]);
    expect([first.body["text"], then.body["text"]]).to.deep.equal(expected);
    expect(then.body["position"]).to.equal(24);
    return { lost, won };
  }

  it("answer one of two turns that come at once, and name to the other who has the session", async () => {
    const store = memoryStore(),
      id = await left(store);
    await using a = await owning("a", store),
      b = await owning("b", store);
    const { lost, won } = await race(a, b, id, "owned_elsewhere", "there");
    expect(lost.headers.get("memformer-owner")).to.equal(`http://${["a", "b"][won]}`);
  });

  it("lose no turn of two that come at once without leases either: the later is refused, and may come again", async () => {
    const kept = memoryStore(),
      id = await left(kept);
    let reads = 0,
      go = (): void => undefined;
    const both = new Promise<void>((resolve) => (go = resolve)); // have read it before one of them writes
    const store: SessionStore = {
      ...kept,
      get: async (key) => kept.get(key).finally(() => ++reads === 2 && go()),
      put: async (...args) => {
        await both;
        return kept.put(...args);
      },
    };
    await using a = await ServiceBench.start({ model, store }),
      b = await ServiceBench.start({ model, store });
    await race(a, b, id, "conflict", "again");
  });

  it("refuse what one writes that was held up beyond its lease, also where the next owner has only looked", async () => {
    const store = memoryStore();
    const gate: { open?: Promise<void> } = {};
    let writes = 0;
    const slow: SessionStore = {
      ...store,
      put: async (key, ...rest) => {
        if (key.startsWith("session.")) writes++;
        await gate.open;
        return store.put(key, ...rest);
      },
    };
    await using a = await owning("a", slow, 0.3),
      b = await owning("b", store, 5);
    const id = await a.open();
    expect((await a.generate(id, one)).status).to.equal(200);
    let go = (): void => undefined;
    gate.open = new Promise((resolve) => (go = resolve));
    const before = writes,
      late = a.generate(id, { text: "late", maxTokens: 9 });
    while (writes === before) await wait(5); // it has looked at its lease, and is about to write
    let looked: Answer;
    do {
      await wait(50);
      looked = await b.call("GET", `/v1/sessions/${id}`);
    } while (looked.status === 409);
    expect([looked.status, looked.body["position"]]).to.deep.equal([200, 12]);
    go();
    const refused = await late;
    expect([refused.status, codeOf(refused)]).to.deep.equal([409, "conflict"]);
    const next = await b.generate(id, two);
    expect(next.body["text"]).to.equal((await alone(model, [one, two]))[1]);
  });
});
