/**
 * A process of its own over a store: it opens what its first argument says, and does what it is told on its standard
 * input, a JSON line a call, several at once. Run by `startStoreProcess`.
 */
import { createInterface } from "node:readline";
import { isMemformerError } from "../../lib/errors.ts";
import { Leases } from "../../lib/service/lease.ts";
import { openStore, type StorePlace } from "./stores.ts";

const { store } = await openStore(JSON.parse(process.argv[2]!) as StorePlace);
const lost: string[] = [];
let leases: Leases | undefined;
const held = (): Leases => {
  if (leases === undefined) throw new Error("no leases were opened");
  return leases;
};

/** Adds one to the number in a record, `times` times, each by compare-and-set; how often another was faster. */
async function increment(key: string, times: number): Promise<number> {
  let conflicts = 0;
  for (let done = 0; done < times;) {
    const found = await store.get(key),
      number = found === undefined ? 0 : Number(Buffer.from(found.bytes).toString());
    try {
      await store.put(key, Buffer.from(String(number + 1)), { ifVersion: found?.version ?? null });
      done++;
    } catch (error) {
      if (!isMemformerError(error) || error.code !== "ERR_MEMFORMER_CONFLICT") throw error;
      conflicts++;
    }
  }
  return conflicts;
}

/** Writes for ever: each record is one number, over and over. */
async function hammer(key: string, bytes: number): Promise<never> {
  let version = (await store.get(key))?.version ?? null;
  for (let round = 0; ; round++)
    version = await store.put(key, Buffer.alloc(bytes, round % 256), { ifVersion: version });
}

const calls: Record<string, (...args: never[]) => unknown> = {
  get: async (key: string) => {
    const found = await store.get(key);
    return found && { version: found.version, text: Buffer.from(found.bytes).toString() };
  },
  put: async (key: string, text: string, ifVersion: string | null) => store.put(key, Buffer.from(text), { ifVersion }),
  increment,
  writers: async (key: string, writers: number) =>
    (await Promise.all(Array.from({ length: writers }, async () => increment(key, 1)))).length,
  hammer,
  leases: (name: string, url: string, ttl: number) => {
    leases = new Leases(store, { name, url, ttl, onLost: (id) => lost.push(id) });
  },
  acquire: async (id: string) => held().acquire(id),
  held: (id: string) => held().held(id),
  release: async (id: string) => held().release(id),
  releaseAll: async () => held().releaseAll(),
  lost: () => lost,
};

function answer(message: unknown): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

createInterface(process.stdin).on("line", (line) => {
  const { call, name, args } = JSON.parse(line) as { call: number; name: string; args: never[] };
  Promise.resolve()
    .then(async () => calls[name]!(...args))
    .then(
      (value) => {
        answer({ call, value });
      },
      (error: unknown) => {
        const { message, code, details } = error as { message: string; code?: string; details?: unknown };
        answer({ call, error: { message, code, details } });
      },
    );
});
answer({ ready: true });
