/**
 * Services of several processes over one store: one is killed, one is stopped beyond its leases, and no turn is lost.
 */
import { expect } from "chai";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Session, type Memformer } from "../lib/index.ts";
import { loader, programOf } from "./support/compiled.ts";
import { servedModel } from "./support/service.ts";
import { storeKinds, type Served } from "./support/stores.ts";

const TTL = 1,
  SESSIONS = 6,
  TURNS = 24,
  TOKENS = 12;

interface Process {
  readonly url: string;
  readonly child: ChildProcess;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

async function startService(model: string, served: Served): Promise<Process> {
  const port = await freePort(),
    args = ["--unhandled-rejections=strict", ...loader, programOf("service-process"), model, String(port)];
  const child = spawn(process.execPath, [...args, JSON.stringify(served.place), String(TTL)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const chunk of child.stdout.setEncoding("utf8")) if (String(chunk).includes("READY")) break;
  return { url: `http://127.0.0.1:${port}`, child };
}

interface TurnAnswer {
  readonly text: string;
  readonly position: number;
}

/** What clients met on their way. */
interface Met {
  foreign: number;
  gone: number;
  refused: number;
}

/**
 * Sends a turn to one process after another until it is answered. The idempotency key makes of a turn that may have
 * been committed, though its answer was lost, one turn.
 */
async function turn(
  processes: readonly Process[],
  first: number,
  id: string,
  seed: number,
  met: Met,
): Promise<TurnAnswer> {
  let url = processes[first % processes.length]!.url;
  for (let attempt = 1; attempt < 200; attempt++) {
    try {
      const response = await fetch(`${url}/v1/sessions/${id}/generate`, {
        method: "POST",
        headers: { "content-type": "application/json", "idempotency-key": `${id}-${seed}` },
        body: JSON.stringify({ text: `turn ${seed}`, maxTokens: TOKENS, seed, onAbort: "discard" }),
        signal: AbortSignal.timeout(3000),
      });
      if (response.status === 200) return (await response.json()) as TurnAnswer;
      const body = await response.text(),
        owner = response.headers.get("memformer-owner");
      expect(response.status, body).to.be.oneOf([409, 503]);
      if (owner !== null) {
        met.foreign++;
        expect(processes.map((each) => each.url)).to.include(owner);
        // The owner may be dead; then somebody else, when its lease is over.
        url = attempt % 3 === 0 ? processes[(first + attempt) % processes.length]!.url : owner;
      } else {
        met.refused++;
        url = processes[(first + attempt) % processes.length]!.url;
      }
    } catch (error) {
      if (!(error instanceof TypeError) && (error as Error).name !== "TimeoutError") throw error;
      met.gone++;
      url = processes[(first + attempt) % processes.length]!.url;
    }
    await sleep(50);
  }
  throw new Error(`session ${id}: nobody answers`);
}

/** What the turns of a session make without any service. */
async function alone(model: Memformer): Promise<string[]> {
  using session = await Session.open(model);
  const texts: string[] = [];
  for (let seed = 0; seed < TURNS; seed++) {
    await session.read(`turn ${seed}`);
    let text = "";
    for await (const piece of session.generate({ maxTokens: TOKENS, seed })) text += piece;
    texts.push(text);
  }
  return texts;
}

const wanted = ["files", "Redis by node-redis", "PostgreSQL"];
for (const kind of storeKinds.filter(({ name, missing }) => wanted.includes(name) && missing === undefined)) {
  describe(`services of three processes: ${kind.name}`, function () {
    this.timeout(180_000);
    let served: Served, folder: string;
    const processes: Process[] = [];

    before(async () => {
      served = await kind.start();
      folder = mkdtempSync(join(tmpdir(), "memformer-service-"));
    });
    after(async () => {
      for (const { child } of processes) {
        child.kill("SIGCONT");
        child.kill("SIGKILL");
      }
      await served.stop();
      rmSync(folder, { recursive: true, force: true });
    });

    it("loses no turn when one is killed and one is stopped beyond its leases", async () => {
      await using model = await servedModel();
      await model.save(join(folder, "model"));
      const expected = await alone(model);
      processes.push(...(await Promise.all([0, 1, 2].map(async () => startService(join(folder, "model"), served)))));
      const met: Met = { foreign: 0, gone: 0, refused: 0 },
        ids = await Promise.all(
          Array.from({ length: SESSIONS }, async (_, i) => {
            const response = await fetch(`${processes[i % 3]!.url}/v1/sessions`, { method: "POST" });
            return ((await response.json()) as { id: string }).id;
          }),
        );
      let done = 0,
        over = false; // also when a client failed
      const faults = (async () => {
        while (!over && done < SESSIONS * 4) await sleep(10);
        processes[0]!.child.kill("SIGKILL");
        while (!over && done < SESSIONS * 10) await sleep(10);
        processes[1]!.child.kill("SIGSTOP");
        await sleep(2.5 * TTL * 1000);
        processes[1]!.child.kill("SIGCONT");
      })();
      const clients = ids.map(async (id, i) => {
        const answers: TurnAnswer[] = [];
        for (let seed = 0; seed < TURNS; seed++) {
          answers.push(await turn(processes, i + seed, id, seed, met)); // round robin
          done++;
        }
        return answers;
      });
      for (const answers of await Promise.all(clients).finally(() => (over = true))) {
        expect(answers.map(({ text }) => text)).to.deep.equal(expected);
        const lengths = expected.map((_, seed) => `turn ${seed}`.length + TOKENS);
        expect(answers.at(-1)!.position).to.equal(lengths.reduce((sum, length) => sum + length));
      }
      await faults;
      expect(met.foreign).to.be.above(0);
      expect(met.gone).to.be.above(0);
      // The others end as they should, and let go of what they had.
      for (const { child } of processes.slice(1)) {
        const exit = once(child, "exit");
        child.kill("SIGTERM");
        expect(await exit).to.deep.equal([0, null]);
      }
    });
  });
}
