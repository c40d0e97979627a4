/** What a session's memory did, over HTTP: waited for, paged, each client's own, through eviction and deletion. */
import { expect } from "chai";
import { memoryUsage, type Memformer } from "../lib/index.ts";
import type { MemoryPage, MemoryRow } from "../lib/service/memory-page.ts";
import { memoryAtRest } from "./support/memory-at-rest.ts";
import { ServiceBench, servedModel } from "./support/service.ts";

const T = 6;
type Page = Extract<MemoryPage, { available: true }>;

describe("the memory over HTTP", function () {
  this.timeout(60_000);
  let model: Memformer;
  before(async () => {
    model = await servedModel({ architecture: "decoder" });
  });
  after(async () => model.dispose());

  async function memory(bench: ServiceBench, id: string, query = "", token?: string): Promise<Page> {
    const { status, body } = await bench.call<Page>(
      "GET",
      `/v1/sessions/${id}/memory${query}`,
      undefined,
      token === undefined ? {} : { authorization: `Bearer ${token}` },
    );
    expect(status, JSON.stringify(body)).to.equal(200);
    return body;
  }

  const read = async (bench: ServiceBench, id: string, text: string): Promise<void> => {
    const { status, body } = await bench.call("POST", `/v1/sessions/${id}/read`, { text });
    expect(status, JSON.stringify(body)).to.equal(200);
  };
  const numbers = (rows: readonly MemoryRow[]): number[] => rows.map(({ segment }) => segment);

  /** Waits for so many segments to be looked at. */
  async function looked(bench: ServiceBench, id: string, segments: number): Promise<Page> {
    const page = await memory(bench, id, `?since=${segments - 1}&wait=20`);
    expect(page.segments, `segments from ${segments - 1} on`).not.to.deep.equal([]);
    return memory(bench, id, "?limit=256");
  }

  it("begins with the first call, waits, and pages", async () => {
    await using bench = await ServiceBench.start({ model });
    const id = await bench.open();
    await read(bench, id, "x".repeat(2 * T)); // nobody watches yet
    expect((await memory(bench, id)).segments).to.deep.equal([]);
    const waiting = memory(bench, id, "?since=0&wait=30");
    await read(bench, id, "abcdef".repeat(5));
    const [row] = (await waiting).segments;
    expect([row!.segment, row!.start, row!.end, row!.tokens.join("")]).to.deep.equal([2, 2 * T, 3 * T, "abcdef"]);
    expect(row!.classes).to.match(/^[lmo]{3}$/);
    expect(row!.reads!.slots.length).to.equal(T);
    await looked(bench, id, 7);
    const first = await memory(bench, id, "?limit=2");
    expect([numbers(first.segments), first.next, first.more]).to.deep.equal([[2, 3], 4, true]);
    const rest = await memory(bench, id, `?since=${first.next}`);
    expect([numbers(rest.segments), rest.more, rest.memorySlots]).to.deep.equal([[4, 5, 6], false, 3]);
    const began = performance.now();
    await memory(bench, id, `?since=7&wait=0.2&revision=${rest.revision}`);
    expect(performance.now() - began).to.be.above(150);
    await memory(bench, id, `?since=7&wait=30&revision=${rest.revision + 1}`); // at once
  });

  it("refuses queries that are none, other clients and sessions that are not there", async () => {
    await using bench = await ServiceBench.start({ model, tokens: { a: "a".repeat(16), b: "b".repeat(16) } });
    const headers = { authorization: `Bearer ${"a".repeat(16)}` },
      id = await bench.open(headers);
    await memory(bench, id, "", "a".repeat(16));
    const status = async (path: string, sent: Record<string, string>): Promise<number> =>
      (await bench.call("GET", path, undefined, sent)).status;
    expect(await status(`/v1/sessions/${id}/memory`, { authorization: `Bearer ${"b".repeat(16)}` })).to.equal(404);
    expect(await status(`/v1/sessions/${id}/memory`, {})).to.equal(401);
    for (const query of ["since=-1", "wait=61", "limit=0", "limit=257", "since=x", "other=1"])
      expect(await status(`/v1/sessions/${id}/memory?${query}`, headers), query).to.equal(400);
    await bench.call("DELETE", `/v1/sessions/${id}`, undefined, headers);
    expect(await status(`/v1/sessions/${id}/memory`, headers)).to.equal(404);
  });

  it("goes on with a session that left memory and came back, and is in no turn's way", async () => {
    await using bench = await ServiceBench.start({ model, liveSessions: 0 });
    const id = await bench.open();
    await memory(bench, id);
    for (let i = 0; i < 6; i++) {
      const polls = Array.from({ length: 5 }, async () => memory(bench, id, "?since=99&wait=0.1"));
      await read(bench, id, "x".repeat(T));
      await Promise.all(polls);
    }
    expect(numbers((await looked(bench, id, 6)).segments)).to.deep.equal([0, 1, 2, 3, 4, 5]);
  });

  it("tells that a reading that failed never was", async () => {
    await using bench = await ServiceBench.start({ model });
    const id = await bench.open();
    const { revision } = await memory(bench, id);
    await read(bench, id, "x".repeat(2 * T));
    const { body } = await bench.call<{ error: object }>("POST", `/v1/sessions/${id}/read`, {
      tokens: [...new Array<number>(5 * T).fill(1), 999],
    });
    expect(body.error).to.be.an("object");
    const page = await looked(bench, id, 2);
    expect(numbers(page.segments)).to.deep.equal([0, 1]);
    expect(page.revision).to.be.at.least(revision);
  });

  it("lets go of everything when the service closes, also of those who wait", async () => {
    const round = async (): Promise<void> => {
      const bench = await ServiceBench.start({ model });
      const id = await bench.open();
      await memory(bench, id);
      const waiting = fetch(`${bench.url}/v1/sessions/${id}/memory?since=99&wait=60`).catch(() => undefined);
      await read(bench, id, "x".repeat(9 * T));
      const began = performance.now();
      await bench[Symbol.asyncDispose]();
      await waiting;
      expect(performance.now() - began).to.be.below(5000);
    };
    await round();
    const before = await memoryAtRest();
    await round();
    await memoryAtRest();
    expect(memoryUsage().tensors).to.equal(before.tensors);
  });
});
