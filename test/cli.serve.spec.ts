/** `memformer serve`: a process that serves, ends in order, and loses nothing it has told when it is killed. */
import { expect } from "chai";
import { type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import { Memformer } from "../lib/index.ts";
import { perturb } from "./support/models.ts";
import { Bench } from "./support/run-cli.ts";

describe("memformer serve", function () {
  this.timeout(300_000);
  let bench: Bench;
  const running = new Set<ChildProcess>();
  before(async () => {
    bench = new Bench();
    await using model = await Memformer.create({ preset: "tiny", seed: 3, device: "cpu" });
    await perturb(model, 0.05);
    await model.save(bench.path("model"));
  });
  after(() => {
    for (const child of running) child.kill("SIGKILL");
    bench.remove();
  });

  /** Serves, and gives the address once it listens. */
  async function serve(
    ...flags: string[]
  ): Promise<{ url: string; child: ChildProcess; ended: Promise<number | null> }> {
    const { child, ended } = bench.start(
      "serve",
      "model",
      "--port",
      "0",
      "--threads",
      "1",
      "--log-level",
      "warn",
      ...flags,
    );
    running.add(child);
    const over = ended.then(({ code }) => (running.delete(child), code));
    for await (const line of createInterface({ input: child.stderr! })) {
      const url = / on (http\S+)$/.exec(line)?.[1];
      if (url !== undefined) return { url, child, ended: over };
    }
    throw new Error("it did not listen");
  }

  async function post(url: string, body?: object, headers: Record<string, string> = {}): Promise<Response> {
    const json = body === undefined ? {} : { body: JSON.stringify(body) };
    return fetch(url, {
      method: "POST",
      headers: { ...(body !== undefined && { "content-type": "application/json" }), ...headers },
      ...json,
    });
  }

  it("loses nothing committed when it is killed at any moment, and goes on where the store is", async () => {
    let server = await serve("--store", "kept");
    const { id } = (await (await post(`${server.url}/v1/sessions`)).json()) as { id: string };
    let told = 0;
    for (let round = 0; round < 3; round++) {
      const turns = (async (): Promise<void> => {
        for (;;) {
          const answer = await post(`${server.url}/v1/sessions/${id}/generate`, { text: "On.", maxTokens: 5 });
          told = ((await answer.json()) as { position: number }).position;
        }
      })();
      await new Promise((resolve) => setTimeout(resolve, 400 + 170 * round));
      server.child.kill("SIGKILL");
      await turns.catch(() => undefined);
      await server.ended;
      server = await serve("--store", "kept");
      const { position } = (await (await fetch(`${server.url}/v1/sessions/${id}`)).json()) as { position: number };
      expect(told).to.be.above(0);
      // A turn may have been stored that its client was not told of yet; at most one.
      expect(position).to.be.within(told, told + 8);
    }
    server.child.kill("SIGTERM");
    expect(await server.ended).to.equal(0);
    const visible = readdirSync(bench.path("kept")).filter((name) => !name.startsWith(".")); // a lock of one that died
    expect(visible).to.deep.equal([`session.public.${id}`]);
  });

  it("ends within 10 s of SIGTERM with 50 open streams, all of them saved", async () => {
    const server = await serve("--store", "open", "--grace", "1");
    const streams = await Promise.all(
      Array.from({ length: 50 }, async (_, i) => {
        const { id } = (await (await post(`${server.url}/v1/sessions`)).json()) as { id: string };
        const body = { text: `${i}`, maxTokens: 1_000_000, stream: true, logitBias: { 256: -100 } };
        const answer = await post(`${server.url}/v1/sessions/${id}/generate`, body);
        return { id, text: answer.text() };
      }),
    );
    await new Promise((resolve) => setTimeout(resolve, 500));
    const start = performance.now();
    server.child.kill("SIGTERM");
    expect(await server.ended).to.equal(0);
    expect(performance.now() - start).to.be.below(10_000);
    for (const { text } of streams) expect((await text).trim().split("\n\n").at(-1)).to.include('"shutting_down"');
    expect(readdirSync(bench.path("open")).sort()).to.deep.equal(
      streams.map(({ id }) => `session.public.${id}`).sort(),
    );
    const again = await serve("--store", "open");
    for (const { id, text } of streams) {
      const sent = [...(await text).matchAll(/"tokens":(\[[^\]]*\])/g)].flatMap(
        ([, tokens]) => JSON.parse(tokens!) as unknown[],
      );
      const { position } = (await (await fetch(`${again.url}/v1/sessions/${id}`)).json()) as { position: number };
      expect(position).to.be.at.least(sent.length + 1);
    }
    again.child.kill("SIGINT");
    expect(await again.ended).to.equal(0);
  });

  it("asks for tokens from a file, and keeps sessions in memory where it is told to", async () => {
    writeFileSync(bench.path("tokens.json"), JSON.stringify({ web: "0123456789abcdef" }));
    const server = await serve("--tokens", "tokens.json", "--store", "memory");
    expect((await post(`${server.url}/v1/sessions`)).status).to.equal(401);
    const made = await post(`${server.url}/v1/sessions`, undefined, { authorization: "Bearer 0123456789abcdef" });
    expect(made.status).to.equal(201);
    server.child.kill("SIGTERM");
    expect(await server.ended).to.equal(0);
    expect(existsSync(bench.path("memory")) || existsSync(bench.path("sessions"))).to.equal(false);
  });

  it("says what is wrong with its flags, and touches nothing", async () => {
    const holder = createServer();
    holder.listen(0, "127.0.0.1");
    await once(holder, "listening");
    const { port } = holder.address() as AddressInfo;
    writeFileSync(bench.path("bad.json"), '["token"]');
    writeFileSync(bench.path("store.mjs"), "export default { get() {} };");
    for (const [flags, code, message] of [
      [["--port", String(port)], 1, /cannot listen on 127\.0\.0\.1:\d+: another process listens there/],
      [["--port", "70000"], 2, /--port/],
      [["--tokens", "bad.json"], 2, /bad\.json: expected an object of tokens/],
      [["--tokens", "none.json"], 1, /none\.json/],
      [["--store-module", "store.mjs"], 2, /no put\(\)/],
      [["--store-module", "store.mjs", "--store", "x"], 2, /exclude each other/],
      [["--slotz", "3"], 2, /--slotz.*--slots/s],
    ] as const) {
      const outcome = await bench.run("serve", "model", ...flags);
      expect(outcome.stderr).to.match(message);
      expect(outcome.code, outcome.stderr).to.equal(code);
      expect(outcome.stderr).not.to.match(/\n {4}at /);
    }
    holder.close();
    expect(existsSync(bench.path("sessions"))).to.equal(false);
  });
});
