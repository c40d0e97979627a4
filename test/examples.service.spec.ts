/** The examples of the service run, and do what they say. */
import { expect } from "chai";
import { execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { createRequire } from "node:module";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { service } from "../examples/service/existing.ts";
import { temporary } from "./support/runs.ts";
import { servedModel } from "./support/service.ts";

const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

describe("examples of the service", function () {
  this.timeout(60_000);

  it("existing.ts serves sessions beside its own routes, for its own users, with one page of metrics", async () => {
    const folder = await temporary();
    try {
      await using model = await servedModel();
      await model.save(join(folder.path, "model"));
      const token = "0123456789abcdef",
        headers = { authorization: `Bearer ${token}` };
      const app = await service(join(folder.path, "model"), folder.path, { web: token });
      try {
        expect((await app.inject({ url: "/orders/7" })).json()).to.deep.equal({ order: "7" });
        expect((await app.inject({ method: "POST", url: "/memory/v1/sessions" })).statusCode).to.equal(401);
        const { id } = (await app.inject({ method: "POST", url: "/memory/v1/sessions", headers })).json<{
          id: string;
        }>();
        const payload = { text: "abc", maxTokens: 3, logitBias: { 256: -100 } };
        const url = `/memory/v1/sessions/${id}/generate`;
        expect((await app.inject({ method: "POST", url, headers, payload })).json()).to.include({ position: 6 });
        const metrics = (await app.inject({ url: "/metrics" })).body;
        expect(metrics).to.match(/^memformer_tokens_total\{kind="generated"\} 3$/m);
        expect(metrics).to.match(/^process_cpu_seconds_total /m);
      } finally {
        await app.close();
      }
    } finally {
      await folder.remove();
    }
  });

  it("redis.ts moves a session between two processes, of which one is killed", async function () {
    if (spawnSync("redis-server", ["--version"]).error !== undefined) this.skip(); // it is not installed
    const folder = await temporary(),
      port = await freePort();
    const redis = spawn("redis-server", ["--port", String(port), "--save", "", "--dir", folder.path], {
      stdio: "ignore",
    });
    try {
      await using model = await servedModel();
      await model.save(join(folder.path, "model"));
      await wait(300);
      const program = fileURLToPath(new URL("../examples/service/redis.ts", import.meta.url));
      const args = ["--import", tsx, program, join(folder.path, "model"), `redis://127.0.0.1:${port}`];
      const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 50_000 });
      expect(stdout).to.match(/answers 409: http:\/\/127\.0\.0\.1:\d+ has it/);
      const positions = [...stdout.matchAll(/position (\d+)/g)].map(([, position]) => Number(position));
      expect(positions).to.have.length(3);
      expect(positions[1]! - positions[0]!).to.be.above(15);
      expect(positions[2]! - positions[1]!).to.be.above(20);
    } finally {
      redis.kill("SIGKILL");
      await folder.remove();
    }
  });
});
