/**
 * A service in a process of its own: `service-process.ts MODEL PORT PLACE TTL`, a model's folder, a port, what
 * `openStore` takes, and the seconds of its leases. Prints READY when it listens; ends on SIGTERM.
 */
import Fastify from "fastify";
import { Memformer } from "../../lib/index.ts";
import { Leases, memformerService } from "../../lib/service/index.ts";
import { openStore, type StorePlace } from "./stores.ts";

const [, , folder, port, place, ttl] = process.argv as unknown as [string, string, string, string, string, string];
const { store, close } = await openStore(JSON.parse(place) as StorePlace);
const model = await Memformer.load(folder),
  app = Fastify({ forceCloseConnections: "idle" }),
  ownership = new Leases(store, { name: `at ${port}`, url: `http://127.0.0.1:${port}`, ttl: Number(ttl) });
await app.register(memformerService, { model, store, ownership, grace: 1000 });
await app.listen({ port: Number(port), host: "127.0.0.1" });
process.once("SIGTERM", () => {
  void app
    .close()
    .then(async () => close())
    .then(async () => model.dispose())
    .then(() => process.exit(0));
});
console.log("READY");
