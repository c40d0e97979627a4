/** A store whose calls are counted and timed, and whose failures say what was done. */
import { isMemformerError, MemformerError } from "../errors.ts";
import type { ServiceMetrics, StoreCall } from "./metrics/service-metrics.ts";
import type { SessionStore } from "./store.ts";

/** Any error of a store that is no MemformerError becomes one: IO, with the cause. */
export function timedStore(store: SessionStore, metrics: ServiceMetrics): SessionStore {
  const timed = async <T>(call: StoreCall, work: () => Promise<T>): Promise<T> => {
    const start = performance.now();
    try {
      return await work();
    } catch (error) {
      if (!isMemformerError(error))
        throw new MemformerError("IO", `the store of sessions failed (${call})`, { cause: error });
      if (error.code === "ERR_MEMFORMER_CONFLICT") metrics.conflicts.add(1);
      throw error;
    } finally {
      metrics.store.observe((performance.now() - start) / 1000, call);
    }
  };
  return {
    get: async (key) => timed("get", async () => store.get(key)),
    put: async (key, bytes, options) => timed("put", async () => store.put(key, bytes, options)),
    delete: async (key, ifVersion) => timed("delete", async () => store.delete(key, ifVersion)),
    list: async (prefix, options) => timed("list", async () => store.list(prefix, options)),
    touch: async (key, ttl) => timed("touch", async () => store.touch(key, ttl)),
  };
}
