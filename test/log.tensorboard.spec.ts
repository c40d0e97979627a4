import { expect } from "chai";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32c, maskedCrc32c } from "../lib/log/crc32c.ts";
import { MemformerError } from "../lib/errors.ts";
import { JsonlLog } from "../lib/log/jsonl.ts";
import { RunLog } from "../lib/log/run-log.ts";
import { EventWriter } from "../lib/log/tensorboard.ts";

let folder = "";

/** Fields of one protobuf message, by number; varints as bigint, fixed and nested as bytes. */
function fields(bytes: Buffer): Map<number, (bigint | Buffer)[]> {
  const found = new Map<number, (bigint | Buffer)[]>();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const take = (length: number) => bytes.subarray(at, (at += length));
  while (at < bytes.length) {
    const tag = Number(varint());
    const value = [varint, () => take(8), () => take(Number(varint())), , , () => take(4)][tag & 7]!();
    found.set(tag >> 3, [...(found.get(tag >> 3) ?? []), value]);
  }
  expect(at).to.equal(bytes.length);
  return found;
}

interface Event {
  time: number;
  step: number;
  version?: string;
  tag?: string;
  value?: number;
  session?: number;
}

/** Reads an event file from its definition: a bit-by-bit checksum here, tables there. */
function decode(file: Buffer): Event[] {
  const checksum = (bytes: Buffer) => {
    let crc = 0xffffffff;
    for (const byte of bytes) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0x82f63b78 & -(crc & 1));
    }
    const rotated = BigInt(~crc >>> 0);
    return Number((((rotated >> 15n) | (rotated << 17n)) + 0xa282ead8n) & 0xffffffffn);
  };
  const events: Event[] = [];
  for (let at = 0; at < file.length;) {
    const length = Number(file.readBigUInt64LE(at));
    expect(file.readUInt32LE(at + 8), "checksum of a length").to.equal(checksum(file.subarray(at, at + 8)));
    const data = file.subarray(at + 12, at + 12 + length);
    expect(file.readUInt32LE(at + 12 + length), "checksum of an event").to.equal(checksum(data));
    at += 16 + length;
    const event = fields(data);
    const bytes = (n: number) => event.get(n)?.[0] as Buffer | undefined;
    const point = bytes(5) && fields(fields(bytes(5)!).get(1)![0] as Buffer);
    events.push({
      time: bytes(1)!.readDoubleLE(),
      step: Number(event.get(2)![0]),
      ...(bytes(3) && { version: bytes(3)!.toString() }),
      ...(point && { tag: String(point.get(1)![0]), value: (point.get(2)![0] as Buffer).readFloatLE() }),
      ...(bytes(7) && { session: Number(fields(bytes(7)!).get(1)![0]) }),
    });
  }
  return events;
}

describe("TensorBoard event files", () => {
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "memformer-events-"));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  it("compute the CRC-32C of the published vectors", () => {
    const vectors: [Uint8Array, number][] = [
      [Buffer.from(""), 0],
      [Buffer.from("a"), 0xc1d04330],
      [Buffer.from("123456789"), 0xe3069283],
      [new Uint8Array(32), 0x8a9136aa],
      [new Uint8Array(32).fill(255), 0x62a8ab43],
      [Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
      [Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
    ];
    for (const [bytes, crc] of vectors) expect(crc32c(bytes).toString(16)).to.equal(crc.toString(16));
    const crc = 0xe3069283;
    expect(maskedCrc32c(Buffer.from("123456789"))).to.equal((((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0);
  });

  it("hold the version first, then every point as it was given", async () => {
    const writer = EventWriter.create(folder);
    const points: [string, number, number, number][] = [
      ["loss", 2.5, 0, 1.25],
      ["loss", NaN, 1, 2],
      ["größe/🙂", -Infinity, 127, 3],
      ["x", 0.1, 128, 4],
      ["y", 0, 2 ** 40 + 1, 5],
      ["z".repeat(300), 1, Number.MAX_SAFE_INTEGER, 6],
    ];
    for (const point of points) writer.scalar(...point);
    writer.close();
    writer.close();
    const [first, ...rest] = decode(await readFile(writer.path));
    expect(first).to.include({ version: "brain.Event:2", step: 0 });
    expect(first!.time).to.be.closeTo(Date.now() / 1000, 60);
    expect(rest).to.deep.equal(
      points.map(([tag, value, step, time]) => ({ tag, value: Math.fround(value), step, time })),
    );
  });

  it("are written by a flush, by close, and when 64 kB wait", async () => {
    const writer = EventWriter.create(folder);
    const count = async () => decode(await readFile(writer.path)).length;
    writer.scalar("a", 1, 1);
    expect(await count()).to.equal(1);
    writer.flush();
    expect(await count()).to.equal(2);
    for (let step = 0; step < 2000; step++) writer.scalar("a", 1, step);
    expect(await count()).to.be.within(1000, 2001);
    writer.close();
    expect(await count()).to.equal(2002);
  });

  it("never share a name, and tell a resumed run's start", async () => {
    const first = EventWriter.create(folder);
    const second = EventWriter.create(folder, { resumeAfter: 40 });
    first.close();
    second.close();
    expect(await readdir(folder)).to.have.lengthOf(2);
    expect(first.path < second.path, "files in the order of their making").to.equal(true);
    expect(decode(await readFile(second.path))[1]).to.include({ session: 1, step: 41 });
  });

  it("refuse a step or tag that is none, and points after close", () => {
    const writer = EventWriter.create(folder);
    expect(() => writer.scalar("a", 1, -1))
      .to.throw("step: expected a whole number of at least 0, got -1")
      .with.property("code", "ERR_MEMFORMER_CONFIG");
    expect(() => writer.scalar("", 1, 1))
      .to.throw("tag: expected a name")
      .with.property("code", "ERR_MEMFORMER_CONFIG");
    writer.close();
    expect(() => writer.scalar("a", 1, 1))
      .to.throw("has been closed")
      .with.property("code", "ERR_MEMFORMER_DISPOSED");
    expect(() => EventWriter.create(writer.path))
      .to.throw(/cannot write event file in .*: EEXIST/)
      .with.property("code", "ERR_MEMFORMER_IO");
  });

  it("are read by TensorBoard itself, which forgets what a resumed run repeats", async function () {
    this.timeout(60_000);
    const python = process.env["MEMFORMER_PYTHON"] ?? "python3";
    const from = "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator";
    if (spawnSync(python, ["-c", from]).status !== 0) {
      console.log(`      (skipped: ${python} has no tensorboard; name one that has with MEMFORMER_PYTHON)`);
      this.skip();
    }
    for (const [from, to, resumeAfter] of [
      [1, 6, undefined],
      [4, 5, 3],
    ] as const) {
      const writer = EventWriter.create(folder, { resumeAfter });
      for (let step = from; step <= to; step++) writer.scalar("train/loss", step / 8 + from, step, 100 * from + step);
      writer.close();
    }
    const printed = execFileSync(
      python,
      [
        "-c",
        `
import json, sys
${from}
events = EventAccumulator(sys.argv[1])
events.Reload()
print(json.dumps([[e.step, e.wall_time, e.value] for e in events.Scalars("train/loss")]))
`,
        folder,
      ],
      { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] },
    );
    expect(JSON.parse(printed)).to.deep.equal([
      [1, 101, 1.125],
      [2, 102, 1.25],
      [3, 103, 1.375],
      [4, 404, 4.5],
      [5, 405, 4.625],
    ]);
  });
});

describe("a run's log", () => {
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "memformer-run-"));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const lines = async () =>
    (await readFile(join(folder, "log.jsonl"), "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, number>);
  const events = async () => {
    const names = (await readdir(join(folder, "tensorboard"))).sort();
    return (await Promise.all(names.map((name) => readFile(join(folder, "tensorboard", name))))).map(decode);
  };

  it("sends each record to the JSON lines and to TensorBoard, with one time", async () => {
    const log = await RunLog.open(folder);
    log.record({ step: 1, "train/loss": 2.5, "train/norm": 0.5 });
    log.record({ step: 2, "train/loss": 2.25 });
    log.flush();
    const [file] = await events();
    expect(file!.slice(1).map(({ tag, step, value }) => [tag, step, value])).to.deep.equal([
      ["train/loss", 1, 2.5],
      ["train/norm", 1, 0.5],
      ["train/loss", 2, 2.25],
    ]);
    const [first, second] = await lines();
    expect(first).to.deep.equal({ step: 1, "train/loss": 2.5, "train/norm": 0.5, time: file![1]!.time });
    expect(second!["time"]).to.equal(file![3]!.time);
    log.close();
    log.close();
  });

  it("continues after the resumed step, in both", async () => {
    const killed = await RunLog.open(folder);
    for (const step of [1, 2, 3, 4]) killed.record({ step, loss: step });
    killed.close();
    const log = await RunLog.open(folder, { resumeAfter: 2 });
    log.record({ step: 3, loss: 30 });
    log.close();
    expect((await lines()).map(({ step, loss }) => [step, loss])).to.deep.equal([
      [1, 1],
      [2, 2],
      [3, 30],
    ]);
    const marks = (await events())[1]!.map(({ session, step }) => [session, step]);
    expect(marks).to.deep.equal([
      [undefined, 0],
      [1, 3],
      [undefined, 3],
    ]);
  });

  it("writes no event files when told so", async () => {
    const log = await RunLog.open(folder, { tensorboard: false });
    log.record({ step: 1, loss: 1 });
    log.flush();
    log.close();
    expect(await readdir(folder)).to.deep.equal(["log.jsonl"]);
  });

  it("keeps what the disk has no room for until it has, and tells the first failure", async () => {
    const told: string[] = [];
    const log = await RunLog.open(folder, { onFailure: ({ code, message }) => told.push(`${code} ${message}`) });
    const original = Object.getOwnPropertyDescriptor(JsonlLog.prototype, "append")!,
      full = { lines: false };
    JsonlLog.prototype.append = function (this: JsonlLog, record) {
      if (full.lines) throw new MemformerError("IO", "no space left");
      (original.value as JsonlLog["append"]).call(this, record);
    };
    try {
      log.record({ step: 1, loss: 3 });
      full.lines = true;
      for (const step of [2, 3]) log.record({ step, loss: 3 });
      expect(told).to.deep.equal(["ERR_MEMFORMER_IO no space left"]);
      full.lines = false;
      log.record({ step: 4, loss: 3 });
      full.lines = true;
      log.record({ step: 5, loss: 3 });
      expect(told.length).to.equal(2);
      expect(() => {
        log.close();
      })
        .to.throw("no space left")
        .with.property("code", "ERR_MEMFORMER_IO");
    } finally {
      Object.defineProperty(JsonlLog.prototype, "append", original);
    }
    expect((await lines()).map(({ step }) => step)).to.deep.equal([1, 2, 3, 4]);
  });

  it("refuses a record that it could write only in part", async () => {
    const log = await RunLog.open(folder);
    const cases: [object, string][] = [
      [{ step: -1 }, "step: expected a whole number of at least 0, got -1"],
      [{ loss: 1 }, "step: expected a whole number of at least 0, got undefined"],
      [{ step: 1, a: 1, loss: "low" }, "loss: expected a number, got string"],
      [{ step: 1, time: 3 }, 'the name "time" is not free'],
    ];
    for (const [record, message] of cases) {
      expect(() => log.record(record as never))
        .to.throw(message)
        .with.property("code", "ERR_MEMFORMER_CONFIG");
    }
    log.close();
    expect(await readFile(join(folder, "log.jsonl"), "utf8")).to.equal("");
    expect((await events())[0]).to.have.lengthOf(1);
    expect(() => log.record({ step: 1, loss: 1 }))
      .to.throw("has been closed")
      .with.property("code", "ERR_MEMFORMER_DISPOSED");
  });
});
