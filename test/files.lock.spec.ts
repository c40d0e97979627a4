import { expect } from "chai";
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { withLock } from "../lib/files/lock.ts";
import { failure } from "./support/failure.ts";

describe("a lock between processes", () => {
  let folder: string, path: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "memformer-lock-"));
    path = join(folder, "lock");
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  /** What a holder that died leaves. */
  const leave = (): void => writeFileSync(path, JSON.stringify({ pid: 2 ** 22 + 1, host: hostname(), started: "1" }));

  it("is held by one process, whoever takes over from a dead one", async function () {
    this.timeout(60_000);
    const library = new URL("../lib/files/lock.ts", import.meta.url).href;
    const script = join(folder, "taker.mjs");
    writeFileSync(
      script,
      `import { openSync, closeSync, rmSync } from "node:fs";
      import { setTimeout as sleep } from "node:timers/promises";
      import { withLock } from ${JSON.stringify(library)};
      process.on("message", async () => {
        let alone = true;
        const inside = async () => {
          try { closeSync(openSync(${JSON.stringify(join(folder, "inside"))}, "wx")); } catch { alone = false; }
          await sleep(2);
          rmSync(${JSON.stringify(join(folder, "inside"))}, { force: true });
        };
        await Promise.all([1, 2, 3].map(() => withLock(${JSON.stringify(path)}, { poll: 0.001 }, inside)));
        process.send(alone);
      });
      process.send("ready");`,
    );
    const takers: ChildProcess[] = Array.from({ length: 4 }, () => fork(script, { execArgv: ["--import", "tsx"] }));
    try {
      await Promise.all(takers.map(async (taker) => once(taker, "message")));
      for (let round = 0; round < 20; round++) {
        leave();
        const answers = await Promise.all(
          takers.map(async (taker) => {
            const answer = once(taker, "message");
            taker.send("go");
            return ((await answer) as [boolean])[0];
          }),
        );
        expect(answers, `round ${round}`).to.deep.equal([true, true, true, true]);
      }
    } finally {
      for (const taker of takers) taker.kill("SIGKILL");
    }
  });

  it("is not followed where it is a symbolic link", async () => {
    const outside = join(folder, "outside");
    writeFileSync(outside, "");
    symlinkSync(outside, path);
    const error = await failure(withLock(path, { patience: 0 }, async () => undefined));
    expect(error.code).to.equal("ELOOP");
    expect(existsSync(outside)).to.equal(true);
  });

  it("names its holder when patience is over", async () => {
    await withLock(path, {}, async () => {
      const error = await failure(withLock(path, { patience: 0, poll: 0.001 }, async () => undefined));
      expect(error.code).to.equal("ERR_MEMFORMER_BUSY");
      expect(error.details).to.include({ path, pid: process.pid });
    });
    expect(existsSync(path)).to.equal(false);
  });
});
