import { expect } from "chai";
import { randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { SessionStore } from "../lib/service/store.ts";
import { fileStore } from "../lib/service/stores/files.ts";
import { postgresStore } from "../lib/service/stores/postgres.ts";
import { redisStore } from "../lib/service/stores/redis.ts";
import { s3Store } from "../lib/service/stores/s3.ts";
import { failure, thrown } from "./support/failure.ts";
import { startStoreProcess, type StoreProcess } from "./support/store-processes.ts";
import {
  openStore,
  scratch,
  startS3Store,
  storeKinds,
  type OpenedStore,
  type Served,
  type StorePlace,
} from "./support/stores.ts";

const CONFLICT = "ERR_MEMFORMER_CONFLICT",
  CONFIG = "ERR_MEMFORMER_CONFIG",
  IO = "ERR_MEMFORMER_IO";

const text = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString();

/** Every key that a store lists, page by page. */
async function all(store: SessionStore, prefix: string, limit: number): Promise<string[][]> {
  const pages: string[][] = [];
  for (let cursor: string | undefined; ;) {
    const page = await store.list(prefix, cursor === undefined ? { limit } : { cursor, limit });
    pages.push([...page.keys]);
    if (page.cursor === undefined) return pages;
    cursor = page.cursor;
  }
}

for (const kind of storeKinds) {
  describe(`a store of sessions: ${kind.name}`, function () {
    let served: Served | undefined, opened: OpenedStore | undefined, store: SessionStore;
    const processes: StoreProcess[] = [];

    before(async function () {
      if (kind.missing !== undefined) {
        console.log(`    skipped: ${kind.missing}`);
        this.skip();
      }
      served = await kind.start();
      opened = await openStore(served.place);
      store = opened.store;
    });
    after(async () => {
      await Promise.all(processes.map(async (each) => each.kill()));
      await opened?.close();
      await served?.stop();
    });

    async function another(): Promise<StoreProcess> {
      const started = await startStoreProcess(served!.place);
      processes.push(started);
      return started;
    }

    it("has nothing before it was put", async () => {
      expect(await store.get("none")).to.equal(undefined);
      expect(await store.delete("none")).to.equal(false);
      expect(await store.delete("none", "1")).to.equal(false);
      expect(await store.touch("none", 10)).to.equal(false);
      expect(await store.list("")).to.deep.equal({ keys: [] });
    });

    it("gives back what was put, with the version that put gave", async () => {
      const version = await store.put("one", Buffer.from("first"), { ifVersion: null });
      const found = (await store.get("one"))!;
      expect(found.version).to.equal(version);
      expect(text(found.bytes)).to.equal("first");
    });

    it("gives a new version with every put, also of the same bytes", async () => {
      let version: string | null = null;
      const versions = new Set<string>();
      for (let round = 0; round < 4; round++)
        versions.add((version = await store.put("same", Buffer.from("x"), { ifVersion: version })));
      await store.delete("same");
      versions.add(await store.put("same", Buffer.from("x"), { ifVersion: null }));
      expect(versions.size).to.equal(5);
    });

    it("keeps 1 MiB of every byte value, and no bytes at all", async () => {
      const bytes = randomBytes(1 << 20);
      for (let i = 0; i < 256; i++) bytes[i] = bytes[bytes.length - 1 - i] = i;
      const kept = Uint8Array.from(bytes);
      // A view into a larger buffer, as what a session saves may be.
      const version = await store.put("large", bytes.subarray(16, bytes.length - 16), { ifVersion: null });
      bytes.fill(0);
      const found = (await store.get("large"))!;
      expect(Buffer.compare(found.bytes, kept.subarray(16, kept.length - 16))).to.equal(0);
      await store.put("large", new Uint8Array(0), { ifVersion: version });
      expect((await store.get("large"))!.bytes).to.have.length(0);
    });

    it("refuses a put where the version does not hold, and changes nothing", async () => {
      const first = await store.put("cas", Buffer.from("1"), { ifVersion: null });
      const second = await store.put("cas", Buffer.from("2"), { ifVersion: first });
      for (const [ifVersion, bytes] of [
        [first, "stale"],
        [null, "new"],
      ] as const) {
        const error = await failure(store.put("cas", Buffer.from(bytes), { ifVersion }));
        expect(error.code).to.equal(CONFLICT);
        expect(error.message).to.match(/^record cas: expected (none|version \S+), found version \S+$/);
        expect(error.details).to.deep.equal({ key: "cas", expected: ifVersion, found: second });
      }
      expect(text((await store.get("cas"))!.bytes)).to.equal("2");
      const missing = await failure(store.put("missing", Buffer.from("x"), { ifVersion: first }));
      expect(missing.code).to.equal(CONFLICT);
      expect(missing.message).to.match(/, found none$/);
      expect(await store.get("missing")).to.equal(undefined);
    });

    it("deletes what is there, in the version that is expected", async () => {
      const first = await store.put("gone", Buffer.from("1"), { ifVersion: null }),
        second = await store.put("gone", Buffer.from("2"), { ifVersion: first });
      expect((await failure(store.delete("gone", first))).code).to.equal(CONFLICT);
      expect(text((await store.get("gone"))!.bytes)).to.equal("2");
      expect(await store.delete("gone", second)).to.equal(true);
      expect(await store.get("gone")).to.equal(undefined);
      expect(await store.delete("gone")).to.equal(false);
      // The version of a record that is no more is not that of the next.
      await store.put("gone", Buffer.from("2"), { ifVersion: null });
      expect((await failure(store.put("gone", Buffer.from("3"), { ifVersion: second }))).code).to.equal(CONFLICT);
      expect(await store.delete("gone")).to.equal(true);
    });

    it("lists keys by prefix, in order, a page at a time", async () => {
      const keys = ["b", "a-2", "a_1", "a.1", "aB", "A", "a", "a-10", "c", "ab", "a0"].map((key) => `list.${key}`);
      for (const key of keys) await store.put(key, Buffer.from(key), { ifVersion: null });
      const sorted = keys.toSorted();
      expect((await store.list("list.")).keys).to.deep.equal(sorted);
      for (const limit of [1, 3, 11, 12]) {
        const pages = await all(store, "list.", limit);
        expect(pages.flat()).to.deep.equal(sorted);
        expect(pages.every((page) => page.length <= limit)).to.equal(true);
      }
      expect((await all(store, "list.a", 2)).flat()).to.deep.equal(sorted.filter((key) => key.startsWith("list.a")));
      expect((await store.list("list.z")).keys).to.deep.equal([]);
      expect((await all(store, "", 5)).flat()).to.include.members(keys);
      // A cursor whose key is gone meanwhile.
      const { cursor } = await store.list("list.", { limit: 4 });
      await store.delete(cursor!);
      expect((await store.list("list.", { cursor: cursor! })).keys).to.deep.equal(sorted.slice(4));
    });

    it("forgets a record when its time is over, and takes it as absent", async () => {
      await store.put("ttl.short", Buffer.from("x"), { ifVersion: null, ttl: 0.3 });
      await store.put("ttl.long", Buffer.from("x"), { ifVersion: null, ttl: 1000 });
      expect(text((await store.get("ttl.short"))!.bytes)).to.equal("x");
      await sleep(400);
      expect(await store.touch("ttl.short", 10)).to.equal(false);
      if (kind.listsExpired !== true) expect((await store.list("ttl.")).keys).to.deep.equal(["ttl.long"]);
      expect(await store.delete("ttl.short")).to.equal(false);
      expect(await store.get("ttl.short")).to.equal(undefined);
      expect((await store.list("ttl.")).keys).to.deep.equal(["ttl.long"]);
    });

    it("puts a new record where one has expired", async () => {
      const first = await store.put("again", Buffer.from("1"), { ifVersion: null, ttl: 0.2 });
      await sleep(300);
      const second = await store.put("again", Buffer.from("2"), { ifVersion: null });
      expect(second).not.to.equal(first);
      await sleep(300);
      expect(text((await store.get("again"))!.bytes)).to.equal("2");
      expect((await store.list("again")).keys).to.deep.equal(["again"]);
    });

    it("sets anew what time is left, longer or shorter, in the same version", async () => {
      const version = await store.put("touched", Buffer.from("x"), { ifVersion: null, ttl: 0.3 });
      expect(await store.touch("touched", 100)).to.equal(true);
      await sleep(400);
      expect((await store.get("touched"))!.version).to.equal(version);
      expect(await store.touch("touched", 0.2)).to.equal(true);
      await sleep(300);
      expect(await store.get("touched")).to.equal(undefined);
      // A put without a time is for ever, whatever was before; one that was for ever can be given a time.
      const next = await store.put("touched", Buffer.from("y"), { ifVersion: null, ttl: 0.3 });
      await store.touch("touched", 0.3);
      await store.put("touched", Buffer.from("z"), { ifVersion: next });
      await sleep(400);
      expect(text((await store.get("touched"))?.bytes)).to.equal("z");
      await store.touch("touched", 0.2);
      await sleep(300);
      expect(await store.get("touched")).to.equal(undefined);
    });

    it("refuses keys with path tricks, and other arguments that are none", async () => {
      const bytes = Buffer.from("x");
      const keys = [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        ".hidden",
        "a\0b",
        "a b",
        "a\n",
        "ä",
        "x".repeat(129),
        7,
      ];
      for (const key of keys as string[])
        for (const call of [
          async () => store.get(key),
          async () => store.put(key, bytes, { ifVersion: null }),
          async () => store.delete(key),
          async () => store.touch(key, 1),
          ...(key === "" ? [] : [async () => store.list(key)]), // no prefix: all
        ]) {
          const error = await failure(call);
          expect(error.code, `${JSON.stringify(key)} ${call.toString()}`).to.equal(CONFIG);
        }
      for (const call of [
        async () => store.put("k", "text" as never, { ifVersion: null }),
        async () => store.put("k", bytes, { ifVersion: "" }),
        async () => store.put("k", bytes, {} as never),
        async () => store.put("k", bytes, { ifVersion: null, ttl: 0 }),
        async () => store.put("k", bytes, { ifVersion: null, ttl: NaN }),
        async () => store.delete("k", ""),
        async () => store.touch("k", -1),
        async () => store.touch("k", Infinity),
        async () => store.list("", { limit: 0 }),
        async () => store.list("", { limit: 1001 }),
        async () => store.list("", { cursor: "../x" }),
      ])
        expect((await failure(call)).code, call.toString()).to.equal(CONFIG);
      expect(await store.get("k")).to.equal(undefined);
      // The longest that is allowed.
      const longest = "x".repeat(128);
      await store.put(longest, bytes, { ifVersion: null });
      expect((await store.list("xxx")).keys).to.deep.equal([longest]);
    });

    it("lets one of ten writers at once win", async () => {
      let version: string | null = null;
      for (let round = 0; round < 5; round++) {
        const before: string | null = version;
        const results: PromiseSettledResult<string>[] = await Promise.allSettled(
          Array.from({ length: 10 }, async (_, i) => store.put("race", Buffer.from(String(i)), { ifVersion: before })),
        );
        const won = results.flatMap((result, i) =>
          result.status === "fulfilled" ? [{ i, version: result.value }] : [],
        );
        expect(won).to.have.length(1);
        for (const result of results)
          if (result.status === "rejected") expect((result.reason as { code: string }).code).to.equal(CONFLICT);
        const found = (await store.get("race"))!;
        expect(text(found.bytes)).to.equal(String(won[0]!.i));
        expect(found.version).to.equal((version = won[0]!.version));
      }
    });

    it("deletes once of ten deletes at once", async () => {
      const version = await store.put("drop", Buffer.from("x"), { ifVersion: null });
      const results = await Promise.allSettled(Array.from({ length: 10 }, async () => store.delete("drop", version)));
      expect(results.filter((result) => result.status === "fulfilled" && result.value)).to.have.length(1);
    });

    if (kind.shared)
      it("loses no increment of 100 writers in two processes, and lets one of two processes win", async () => {
        const [a, b] = await Promise.all([another(), another()]);
        // Each sees what the other wrote.
        const version = await a.call<string>("put", "shared", "by a", null);
        expect(await b.call("get", "shared")).to.deep.equal({ version, text: "by a" });
        for (let round = 0, before: string | null = version; round < 10; round++) {
          const results: PromiseSettledResult<string>[] = await Promise.allSettled(
            [a, b].map(async (each, i) => each.call<string>("put", "shared", `${round} ${i}`, before)),
          );
          const won = results.filter((result) => result.status === "fulfilled");
          expect(won).to.have.length(1);
          before = won[0]!.value;
          const lost = results.find((result) => result.status === "rejected");
          expect((lost!.reason as { code: string }).code).to.equal(CONFLICT);
        }
        await Promise.all([a.call("writers", "count", 50), b.call("writers", "count", 50)]);
        expect(text((await store.get("count"))!.bytes)).to.equal("100");
      });

    it("says in a sentence that its server is gone, and does not hang", async function () {
      if (served!.kill === undefined) this.skip();
      const mine = await openStore(served!.place, 2);
      try {
        const version = await mine.store.put("last", Buffer.alloc(1 << 20), { ifVersion: null });
        // In the middle of writes and reads.
        const underway = Array.from({ length: 20 }, async (_, i) =>
          i % 2 === 0 ? mine.store.get("last") : mine.store.put("last", Buffer.alloc(1 << 20), { ifVersion: version }),
        );
        const settled = Promise.allSettled(underway);
        await served!.kill();
        for (const result of await settled)
          if (result.status === "rejected")
            expect((result.reason as { code: string }).code).to.be.oneOf([IO, CONFLICT]);
        const started = performance.now();
        for (const [call, action] of [
          [async () => mine.store.get("last"), "read record last"],
          [async () => mine.store.put("last", Buffer.from("x"), { ifVersion: version }), "write record last"],
          [async () => mine.store.delete("last"), "delete record last"],
          [async () => mine.store.touch("last", 9), "touch record last"],
          [async () => mine.store.list("la"), "list records la\\*"],
        ] as const) {
          const error = await failure(call);
          expect(error.code).to.equal(IO);
          expect(error.message).to.match(new RegExp(`^cannot ${action} in [A-Z].*: .{4,}$`));
          expect(error.cause).to.be.an.instanceOf(Error);
        }
        expect(performance.now() - started).to.be.below(15_000);
      } finally {
        await mine.close();
      }
    });
  });
}

describe("a store of sessions in files", () => {
  let folder: string, store: SessionStore;
  beforeEach(() => {
    folder = join(scratch(), "sessions");
    store = fileStore(folder);
  });
  afterEach(() => rmSync(join(folder, ".."), { recursive: true, force: true }));

  it("makes a folder and files that only their owner may read", async () => {
    await store.put("secret", Buffer.from("x"), { ifVersion: null });
    expect(statSync(folder).mode & 0o777).to.equal(0o700);
    expect(statSync(join(folder, "secret")).mode & 0o777).to.equal(0o600);
    expect(readdirSync(folder)).to.deep.equal(["secret"]); // no lock, no partial
  });

  it("does not follow a symbolic link in its folder", async () => {
    await store.put("real", Buffer.from("x"), { ifVersion: null });
    const outside = join(folder, "..", "outside");
    writeFileSync(outside, readFileSync(join(folder, "real"))); // a record in every byte
    symlinkSync(outside, join(folder, "link"));
    symlinkSync(join(folder, "..", "made"), join(folder, "dangling"));
    for (const key of ["link", "dangling"]) {
      for (const call of [
        async () => store.get(key),
        async () => store.put(key, Buffer.from("y"), { ifVersion: null }),
        async () => store.touch(key, 1),
        async () => store.delete(key),
      ]) {
        const error = await failure(call);
        expect(error.code).to.equal(IO);
        expect(error.details!["errno"]).to.equal("ELOOP");
      }
    }
    expect((await store.list("")).keys).to.deep.equal(["real"]);
    expect(existsSync(join(folder, "..", "made"))).to.equal(false);
    // Nor one that lies where the lock would.
    symlinkSync(outside, join(folder, ".real.lock"));
    const { version } = (await store.get("real"))!;
    expect((await failure(store.put("real", Buffer.from("y"), { ifVersion: version }))).code).to.equal(IO);
    expect(readFileSync(outside)).to.deep.equal(readFileSync(join(folder, "real")));
  });

  it("names a file that is not a record, and lists the others", async () => {
    await store.put("good", Buffer.from("x"), { ifVersion: null });
    writeFileSync(join(folder, "bad"), "what is this?");
    writeFileSync(join(folder, "with blanks in its name"), "");
    mkdirSync(join(folder, "inner"));
    expect((await failure(store.get("bad"))).code).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
    expect((await failure(store.get("bad"))).message).to.include(join(folder, "bad"));
    expect((await store.list("")).keys).to.deep.equal(["good"]);
  });

  it("says that the folder cannot be made or read", async () => {
    writeFileSync(join(folder, "..", "file"), "");
    const error = await failure(fileStore(join(folder, "..", "file")).get("x"));
    expect(error.code).to.equal(IO);
    expect(error.message).to.match(/^cannot open store .*ENOTDIR/);
  });

  it("has the old record or the new one after kill -9 during a put, and goes on", async function () {
    this.timeout(120_000);
    const size = 1 << 20,
      place: StorePlace = { kind: "files", folder };
    await store.put("hammered", Buffer.alloc(size, 1), { ifVersion: null });
    for (let round = 0; round < 12; round++) {
      const writer = await startStoreProcess(place);
      const ended = failure(writer.call("hammer", "hammered", size));
      await sleep(20 + Math.random() * 60);
      await writer.kill();
      await ended;
      const found = (await store.get("hammered"))!;
      expect(found.bytes).to.have.length(size);
      expect(Buffer.from(found.bytes).equals(Buffer.alloc(size, found.bytes[0]))).to.equal(true);
      // The dead writer's lock and partial are in nobody's way.
      await fileStore(folder).put("hammered", found.bytes, { ifVersion: found.version });
    }
    expect(readdirSync(folder)).to.deep.equal(["hammered"]);
  });

  it("takes over a lock that its holder left when it died", async () => {
    await store.put("k", Buffer.from("1"), { ifVersion: null });
    const lock = join(folder, ".k.lock");
    for (const text of ["", JSON.stringify({ pid: 2 ** 22 + 1, host: hostname(), started: "1" })]) {
      writeFileSync(lock, text);
      const { version } = (await store.get("k"))!;
      await store.put("k", Buffer.from("2"), { ifVersion: version });
      expect(existsSync(lock)).to.equal(false);
    }
  });
});

describe("a store of sessions in S3", () => {
  it("takes a write whose answer was lost, and which the client sent again, as its own", async () => {
    const served = await startS3Store(),
      { store, close } = await openStore(served.place);
    try {
      served.server.loseAnswers(1);
      const first = await store.put("k", Buffer.from("1"), { ifVersion: null });
      served.server.loseAnswers(1);
      const second = await store.put("k", Buffer.from("2"), { ifVersion: first });
      expect((await store.get("k"))!.version).to.equal(second);
      expect(served.server.requests.filter((line) => line.startsWith("PUT"))).to.have.length(4);
    } finally {
      await close();
      await served.stop();
    }
  });

  it("repeats a write that S3 asks to repeat", async () => {
    const served = await startS3Store(),
      { store, close } = await openStore(served.place);
    try {
      served.server.collide(3);
      await store.put("k", Buffer.from("1"), { ifVersion: null });
      expect(text((await store.get("k"))!.bytes)).to.equal("1");
    } finally {
      await close();
      await served.stop();
    }
  });

  it("says that there is no such bucket, or that the key is wrong", async () => {
    const served = await startS3Store(),
      { S3 } = await import("@aws-sdk/client-s3"),
      { s3Config } = await import("./support/s3-server.ts");
    const config = s3Config(served.server.endpoint),
      wrong = new S3({ ...config, credentials: { ...config.credentials, secretAccessKey: "wrong" } }),
      client = new S3(config);
    try {
      const elsewhere = s3Store(client, { bucket: "elsewhere" });
      for (const call of [
        async () => elsewhere.get("k"),
        async () => elsewhere.put("k", Buffer.from("x"), { ifVersion: null }),
        async () => elsewhere.put("k", Buffer.from("x"), { ifVersion: '"1"' }),
        async () => elsewhere.delete("k"),
        async () => elsewhere.list(""),
      ]) {
        const error = await failure(call);
        expect(error.code).to.equal(IO);
        expect(error.message).to.match(/in S3 bucket elsewhere: The specified bucket does not exist$/);
      }
      const error = await failure(s3Store(wrong, { bucket: "sessions" }).get("k"));
      expect(error.code).to.equal(IO);
      expect(error.message).to.match(/SignatureDoesNotMatch/);
    } finally {
      client.destroy();
      wrong.destroy();
      await served.stop();
    }
  });
});

describe("the stand-in for S3", () => {
  it("refuses what is not signed, and a body that is not the signed one", async () => {
    const served = await startS3Store(),
      { endpoint } = served.server;
    try {
      const answer = await fetch(`${endpoint}/sessions/x`);
      expect(answer.status).to.equal(403);
      expect(await answer.text()).to.include("<Code>AccessDenied</Code>");
      const forged = await fetch(`${endpoint}/sessions/x`, {
        method: "PUT",
        body: "x",
        headers: {
          authorization: `AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=${"0".repeat(64)}`,
          "x-amz-date": "20260101T000000Z",
        },
      });
      expect(forged.status).to.equal(403);
      expect(await forged.text()).to.include("RequestTimeTooSkewed");
    } finally {
      await served.stop();
    }
  });
});

describe("stores of sessions", () => {
  it("refuse a client or option that is none", () => {
    const s3 = { getObject() {}, putObject() {}, deleteObject() {}, listObjectsV2() {} } as never,
      redis = { callBuffer() {} } as never,
      pool = { query() {} } as never;
    for (const make of [
      () => fileStore(""),
      () => fileStore(undefined as never),
      () => redisStore({} as never),
      () => redisStore(undefined as never),
      () => redisStore(redis, { prefix: 7 as never }),
      () => redisStore(redis, { timeout: 0 }),
      () => postgresStore({} as never),
      () => postgresStore(pool, { table: 'x"; DROP TABLE users; --' }),
      () => postgresStore(pool, { table: "a.b.c" }),
      () => postgresStore(pool, { table: "" }),
      () => postgresStore(pool, { table: "x".repeat(51) }),
      () => postgresStore(pool, { timeout: NaN }),
      () => s3Store({} as never, { bucket: "b" }),
      () => s3Store(s3, { bucket: "" }),
      () => s3Store(s3, {} as never),
    ]) {
      const error = thrown(make);
      expect(error.code, make.toString()).to.equal(CONFIG);
      expect(error.message).to.match(/expected/);
    }
    redisStore(redis);
    postgresStore(pool, { table: "app.sessions" });
    s3Store(s3, { bucket: "b", prefix: "" });
  });
});
