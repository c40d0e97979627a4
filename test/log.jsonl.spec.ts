import { expect } from "chai";
import { spawnSync, execFileSync } from "node:child_process";
import { appendFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { JsonlLog } from "../lib/log/jsonl.ts";

let folder = "";
let path = "";
const linesOf = async () => (await readFile(path, "utf8")).split("\n");
const line = (step: number, pad = "") => `${JSON.stringify({ step, pad })}\n`;

async function reopened(resumeAfter?: number): Promise<string> {
  (await JsonlLog.open(path, { resumeAfter })).close();
  return await readFile(path, "utf8");
}

describe("a JSONL log", () => {
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "memformer-jsonl-"));
    path = join(folder, "deep", "log.jsonl");
    await mkdir(join(folder, "deep"));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  it("has each line in the file as soon as it is appended, in order", async () => {
    await rm(join(folder, "deep"), { recursive: true });
    const log = await JsonlLog.open(path);
    for (let step = 1; step <= 3; step++) {
      log.append({ step, loss: 1 / step });
      expect((await linesOf()).length).to.equal(step + 1);
    }
    log.close();
    expect(await linesOf()).to.deep.equal([
      '{"step":1,"loss":1}',
      '{"step":2,"loss":0.5}',
      '{"step":3,"loss":0.3333333333333333}',
      "",
    ]);
  });

  it("writes numbers that JSON lacks as words", async () => {
    const log = await JsonlLog.open(path);
    log.append({ step: 1, a: NaN, b: Infinity, c: -Infinity, d: [NaN] });
    log.close();
    expect(await linesOf()).to.deep.equal(['{"step":1,"a":"NaN","b":"Infinity","c":"-Infinity","d":["NaN"]}', ""]);
  });

  it("drops a torn last line, wherever it was torn", async () => {
    const whole = line(1) + line(2, "ü");
    const torn = Buffer.from(line(3, "ü"));
    for (let cut = 0; cut < torn.length; cut++) {
      await writeFile(path, Buffer.concat([Buffer.from(whole), torn.subarray(0, cut)]));
      expect(await reopened()).to.equal(whole);
    }
    await writeFile(path, torn.subarray(0, 4));
    expect(await reopened()).to.equal("");
  });

  it("cuts what was logged after the step that is resumed", async () => {
    const text = [1, 2, 2, 3, 4].map((step) => line(step)).join("");
    const cases: [number | undefined, number][] = [
      [undefined, 5],
      [9, 5],
      [3, 4],
      [2, 3],
      [1, 1],
      [0, 0],
    ];
    for (const [resumeAfter, kept] of cases) {
      await writeFile(path, text);
      expect((await reopened(resumeAfter)).split("\n").length - 1, `after ${resumeAfter}`).to.equal(kept);
    }
  });

  it("cuts at the right byte in a file of many read blocks", async () => {
    const lines = Array.from({ length: 300 }, (_, i) => line(i, "é".repeat((i * 7) % 1000)));
    for (const last of [0, 150, 298]) {
      await writeFile(path, `${lines.join("")}torn`);
      expect(await reopened(last)).to.equal(lines.slice(0, last + 1).join(""));
    }
    await writeFile(path, `${line(1, "x".repeat(200_000))}torn`);
    expect((await reopened()).length).to.equal(line(1, "x".repeat(200_000)).length);
  });

  it("keeps a whole line that it cannot read", async () => {
    await writeFile(path, `${line(1)}not JSON\n[]\nnull\n${line(2)}${line(3)}`);
    expect(await reopened(2)).to.equal(`${line(1)}not JSON\n[]\nnull\n${line(2)}`);
  });

  it("appends at the end even when another process does too", async () => {
    const log = await JsonlLog.open(path);
    log.append({ step: 1 });
    await appendFile(path, line(7));
    log.append({ step: 2 });
    log.close();
    const steps = (await linesOf()).map((text) => text && (JSON.parse(text) as { step: number }).step);
    expect(steps).to.deep.equal([1, 7, 2, ""]);
  });

  it("says so after it was closed, and when it cannot be opened", async () => {
    const log = await JsonlLog.open(path);
    log.close();
    log.close();
    expect(() => log.append({ step: 1 }))
      .to.throw(/log\.jsonl has been closed/)
      .with.property("code", "ERR_MEMFORMER_DISPOSED");
    const error = await JsonlLog.open(folder).catch((reason: unknown) => reason);
    expect(error).to.include({ code: "ERR_MEMFORMER_IO" });
    expect((error as Error).message).to.match(/^cannot open .*: EISDIR/);
  });

  it("takes back a line that does not fit on the disk", async function () {
    const disk = join(folder, "disk");
    await mkdir(disk);
    if (process.getuid?.() !== 0 || spawnSync("mount", ["-t", "tmpfs", "-o", "size=16k", "tmpfs", disk]).status !== 0) {
      console.log("      (skipped: a small disk can only be mounted by root)");
      this.skip();
    }
    try {
      path = join(disk, "log.jsonl");
      const log = await JsonlLog.open(path);
      const record = { step: 1, pad: "x".repeat(3000) };
      expect(() => {
        for (let i = 0; i < 20; i++) log.append(record);
      })
        .to.throw(/cannot append to .*ENOSPC/)
        .with.property("code", "ERR_MEMFORMER_IO");
      log.close();
      const lines = await linesOf();
      expect(lines.pop()).to.equal("");
      expect(lines.length).to.be.above(1);
      for (const text of lines) expect(JSON.parse(text)).to.deep.equal(record);
    } finally {
      execFileSync("umount", [disk]);
    }
  });
});
