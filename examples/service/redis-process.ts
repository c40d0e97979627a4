/**
 * One of several processes that share their sessions through Redis; examples/service/redis.ts starts two.
 * `npx tsx examples/service/redis-process.ts MODEL_FOLDER REDIS_URL PORT`
 */
import { createClient } from "@redis/client";
import closeWithGrace from "close-with-grace";
import Fastify from "fastify";
import { configureRuntime, Memformer } from "../../lib/index.ts";
import { Leases, memformerService, redisStore } from "../../lib/service/index.ts";

const [, , folder, redis, port] = process.argv;
if (folder === undefined || redis === undefined || port === undefined)
  throw new Error("usage: redis-process.ts MODEL_FOLDER REDIS_URL PORT");
configureRuntime({ threads: 1 });
const client = createClient({ url: redis });
client.on("error", (error: Error) => {
  console.error(`redis: ${error.message}`); // it connects again by itself
});
await client.connect();
const store = redisStore(client, { prefix: "memformer:" }),
  url = `http://127.0.0.1:${port}`;
const model = await Memformer.load(folder);
const app = Fastify({ forceCloseConnections: "idle" });
// A session that this process uses is its own for 2 s from the last renewal: so long the other waits if it dies.
await app.register(memformerService, {
  model,
  store,
  ownership: new Leases(store, { name: url, url, ttl: 2 }),
  grace: 1000,
});
await app.listen({ port: Number(port) });
console.log(`listening on ${url}`);
closeWithGrace({ delay: 8000 }, async () => {
  await app.close();
  await client.close();
  await model.dispose();
});
