import { expect } from "chai";
import { setTimeout as sleep } from "node:timers/promises";
import { Leases } from "../lib/service/lease.ts";
import type { SessionStore } from "../lib/service/store.ts";
import { memoryStore } from "../lib/service/stores/memory.ts";
import { failure, thrown } from "./support/failure.ts";
import { startStoreProcess, type StoreProcess } from "./support/store-processes.ts";
import { openStore, storeKinds, type Served } from "./support/stores.ts";

const BUSY = "ERR_MEMFORMER_BUSY",
  CONFLICT = "ERR_MEMFORMER_CONFLICT";

interface Acquired {
  readonly fence: number;
  readonly takenOver: boolean;
}

/** Tries until it has the lease; how long that took, in ms. */
async function acquired(work: () => Promise<Acquired>): Promise<Acquired & { waited: number }> {
  const start = performance.now();
  for (;;) {
    try {
      return { ...(await work()), waited: performance.now() - start };
    } catch (error) {
      if ((error as { code?: string }).code !== BUSY || performance.now() - start > 30_000) throw error;
      await sleep(50);
    }
  }
}

/** A store in front of `store` whose calls wait or fail on demand. */
function faulty(store: SessionStore): SessionStore & { fail?: "before" | "after"; delay?: number } {
  const through: SessionStore & { fail?: "before" | "after"; delay?: number } = {
    ...store,
    async put(key, bytes, options) {
      if (through.delay !== undefined) await sleep(through.delay);
      if (through.fail === "before") throw new Error("the store is gone");
      const version = await store.put(key, bytes, options);
      if (through.fail === "after") throw new Error("the answer is gone");
      return version;
    },
  };
  return through;
}

describe("leases", () => {
  const open: Leases[] = [];
  const make = (store: SessionStore, options: ConstructorParameters<typeof Leases>[1] = {}): Leases => {
    const leases = new Leases(store, options);
    open.push(leases);
    return leases;
  };
  afterEach(async () => {
    await Promise.all(open.splice(0).map(async (leases) => leases.releaseAll()));
  });

  it("are one process's, which others are told of", async () => {
    const store = memoryStore(),
      a = make(store, { name: "a", url: "http://a:1" }),
      b = make(store, { name: "b" });
    const { fence, takenOver } = await a.acquire("s");
    expect(takenOver).to.equal(false);
    expect(a.held("s")).to.equal(true);
    expect(a.fence("s")).to.equal(fence);
    expect(a.ids).to.deep.equal(["s"]);
    expect(await a.acquire("s")).to.deep.equal({ fence, takenOver: false });
    const error = await failure(b.acquire("s"));
    expect(error.code).to.equal(BUSY);
    expect(error.message).to.equal("session s is owned by a, http://a:1");
    expect(error.details).to.include({ id: "s", owner: "a", url: "http://a:1" });
    expect(error.details!["until"]).to.be.within(Date.now() + 10_000, Date.now() + 15_000);
    expect(b.held("s")).to.equal(false);
    expect(b.fence("s")).to.equal(undefined);
  });

  it("are not the same process's by name alone", async () => {
    const store = memoryStore();
    await make(store, { name: "same" }).acquire("s");
    expect((await failure(make(store, { name: "same" }).acquire("s"))).code).to.equal(BUSY);
  });

  it("are taken at once when they were let go of, with a higher fence", async () => {
    const store = memoryStore(),
      a = make(store),
      b = make(store);
    const first = await a.acquire("s");
    await a.release("s");
    expect(a.held("s")).to.equal(false);
    const second = await b.acquire("s");
    expect(second.takenOver).to.equal(false);
    expect(second.fence).to.be.above(first.fence);
    await a.release("s"); // not held: nothing happens
    expect(b.held("s")).to.equal(true);
    await b.release("s", { forget: true });
    expect((await store.list("")).keys).to.deep.equal([]);
    await sleep(5); // of a record that is no more only the clock is left
    expect((await a.acquire("s")).fence).to.be.above(second.fence);
  });

  it("have one owner of many that ask at once, and one call of many in a process", async () => {
    const store = memoryStore(),
      all = Array.from({ length: 20 }, () => make(store));
    const results = await Promise.allSettled(all.flatMap((each) => [each.acquire("s"), each.acquire("s")]));
    expect(all.filter((each) => each.held("s"))).to.have.length(1);
    expect(results.filter(({ status }) => status === "fulfilled")).to.have.length(2);
    for (const result of results)
      if (result.status === "rejected") expect((result.reason as { code: string }).code).to.equal(BUSY);
  });

  it("are renewed for as long as they are wanted", async () => {
    const store = memoryStore(),
      lost: string[] = [];
    const a = make(store, { ttl: 0.3, onLost: (id) => lost.push(id) }),
      b = make(store, { ttl: 0.3 });
    const ids = Array.from({ length: 100 }, (_, i) => `s${i}`);
    await Promise.all(ids.map(async (id) => a.acquire(id)));
    for (let waited = 0; waited < 1000; waited += 100) {
      await sleep(100);
      expect((await failure(b.acquire("s0"))).code).to.equal(BUSY);
    }
    expect(a.ids).to.have.length(100);
    expect(lost).to.deep.equal([]);
  });

  it("are lost when the store cannot renew them in time, by the clock alone", async () => {
    const store = faulty(memoryStore()),
      lost: string[] = [];
    const a = make(store, { ttl: 0.3, onLost: (id) => lost.push(id) });
    await a.acquire("s");
    store.fail = "before";
    await sleep(150);
    expect(a.held("s")).to.equal(true); // one renewal failed, there is time
    await sleep(350);
    expect(a.held("s")).to.equal(false);
    expect(lost).to.deep.equal(["s"]);
    delete store.fail;
    expect((await a.acquire("s")).takenOver).to.equal(true);
  });

  it("are kept when a renewal was written and its answer was lost", async () => {
    const store = faulty(memoryStore()),
      lost: string[] = [];
    const a = make(store, { ttl: 0.6, onLost: (id) => lost.push(id) });
    await a.acquire("s");
    store.fail = "after";
    await sleep(250);
    delete store.fail;
    await sleep(700);
    expect(a.held("s")).to.equal(true);
    expect(lost).to.deep.equal([]);
  });

  it("count from when a renewal was asked for, not from its answer", async () => {
    const store = faulty(memoryStore());
    const a = make(store, { ttl: 0.3 });
    store.delay = 400;
    await a.acquire("s");
    expect(a.held("s")).to.equal(false);
  });

  it("are lost to a process that took them, whatever its clock says", async () => {
    const store = memoryStore(),
      lost: string[] = [];
    const a = make(store, { ttl: 0.6, onLost: (id) => lost.push(id) });
    const { fence } = await a.acquire("s");
    const { version } = (await store.get("lease.s"))!;
    const foreign = JSON.stringify({ fence: fence + 1, process: "other", owner: "b", until: Date.now() + 60_000 });
    await store.put("lease.s", Buffer.from(foreign), { ifVersion: version });
    await sleep(400);
    expect(a.held("s")).to.equal(false);
    expect(lost).to.deep.equal(["s"]);
    expect((await failure(a.acquire("s"))).details).to.include({ owner: "b", url: undefined });
  });

  it("of an owner whose clock is ahead are taken when nothing was seen of it for a ttl", async () => {
    const store = memoryStore(),
      b = make(store, { ttl: 0.5 });
    const foreign = JSON.stringify({ fence: 7, process: "other", owner: "a", until: Date.now() + 3_600_000 });
    await store.put("lease.s", Buffer.from(foreign), { ifVersion: null });
    const { takenOver, waited } = await acquired(async () => b.acquire("s"));
    expect(takenOver).to.equal(true);
    expect(waited).to.be.within(450, 2000);
  });

  it("refuse what is not seconds, and a record that is not a lease", async () => {
    for (const ttl of [0, -1, NaN, Infinity, "15"] as number[])
      expect(thrown(() => new Leases(memoryStore(), { ttl })).code).to.equal("ERR_MEMFORMER_CONFIG");
    const store = memoryStore();
    await store.put("lease.s", Buffer.from("what?"), { ifVersion: null });
    expect((await failure(make(store).acquire("s"))).code).to.equal("ERR_MEMFORMER_DATA");
    expect((await failure(make(store).acquire("../s"))).code).to.equal("ERR_MEMFORMER_CONFIG");
  });
});

for (const kind of storeKinds.filter(({ shared, missing }) => shared && missing === undefined)) {
  describe(`leases of several processes: ${kind.name}`, function () {
    this.timeout(120_000);
    let served: Served;
    const processes: StoreProcess[] = [];
    const TTL = 2;

    before(async () => {
      served = await kind.start();
    });
    afterEach(async () => {
      await Promise.all(processes.splice(0).map(async (each) => each.kill()));
    });
    after(async () => {
      await served.stop();
    });

    async function start(...names: string[]): Promise<StoreProcess[]> {
      const started = await Promise.all(
        names.map(async (name) => {
          const each = await startStoreProcess(served.place);
          processes.push(each);
          await each.call("leases", name, `http://${name}:80`, TTL);
          return each;
        }),
      );
      return started;
    }

    it("refuses one of two, and names the owner; another takes what was let go of at once", async () => {
      const [a, b, c] = (await start("a", "b", "c")) as [StoreProcess, StoreProcess, StoreProcess];
      const results = await Promise.allSettled([a, b, c].map(async (each) => each.call<Acquired>("acquire", "s")));
      const owner = results.findIndex(({ status }) => status === "fulfilled"),
        name = ["a", "b", "c"][owner]!;
      for (const [i, result] of results.entries()) {
        if (i === owner) continue;
        const { code, details } = (result as PromiseRejectedResult).reason as { code: string; details: object };
        expect(code).to.equal(BUSY);
        expect(details).to.include({ owner: name, url: `http://${name}:80` });
      }
      const next = [a, b, c][(owner + 1) % 3]!;
      await [a, b, c][owner]!.call("release", "s");
      const taken = await next.call<Acquired>("acquire", "s");
      expect(taken.takenOver).to.equal(false);
      await next.call("acquire", "t");
      await next.call("releaseAll");
      for (const id of ["s", "t"])
        expect((await [a, b, c][owner]!.call<Acquired>("acquire", id)).takenOver).to.equal(false);
    });

    it("tells a process that was stopped beyond its lease, and refuses what it writes", async () => {
      const [a, b] = (await start("a", "b")) as [StoreProcess, StoreProcess],
        first = await a.call<Acquired>("acquire", "paused"),
        // What the session host does at a takeover: the fence goes into the session's record.
        version = await a.call<string>("put", "session.paused", `fence ${first.fence}`, null);
      a.signal("SIGSTOP");
      const second = await acquired(async () => b.call("acquire", "paused"));
      expect(second.takenOver).to.equal(true);
      expect(second.fence).to.be.above(first.fence);
      expect(second.waited).to.be.below(1000 * (2 * TTL + 2));
      await b.call("put", "session.paused", `fence ${second.fence}`, version);
      a.signal("SIGCONT");
      expect(await a.call("held", "paused")).to.equal(false);
      const error = await failure(a.call("put", "session.paused", "stale", version));
      expect(error.code).to.equal(CONFLICT);
      await sleep(1000 * TTL);
      expect(await a.call("lost")).to.deep.equal(["paused"]);
      expect(await b.call("held", "paused")).to.equal(true);
      expect(await b.call("lost")).to.deep.equal([]);
      expect((await failure(a.call("acquire", "paused"))).details).to.include({ owner: "b" });
      const { store, close } = await openStore(served.place);
      expect(Buffer.from((await store.get("session.paused"))!.bytes).toString()).to.equal(`fence ${second.fence}`);
      await close();
    });

    it("lets another take over from a process that was killed, after its lease and not before", async () => {
      const [a, b] = (await start("a", "b")) as [StoreProcess, StoreProcess],
        first = await a.call<Acquired>("acquire", "killed");
      await a.kill();
      expect((await failure(b.call("acquire", "killed"))).code).to.equal(BUSY);
      const second = await acquired(async () => b.call("acquire", "killed"));
      expect(second).to.include({ takenOver: true });
      expect(second.fence).to.be.above(first.fence);
      expect(second.waited).to.be.below(1000 * (TTL + 2));
    });
  });
}
