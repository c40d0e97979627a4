/**
 * Writes scalars as TensorBoard reads them: a file of TFRecords (length, masked CRC of it, data, masked CRC of it),
 * each one an `Event` protobuf. Fields used: Event { 1 wall_time, 2 step, 3 file_version, 5 summary, 7 session_log },
 * Summary { 1 value }, Value { 1 tag, 2 simple_value }, SessionLog { 1 status }.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { withIoErrorsSync } from "../io-error.ts";
import { makeFolderSync } from "../files/make-folder.ts";
import { MemformerError } from "../errors.ts";
import { knownOptions } from "../options.ts";
import { maskedCrc32c } from "./crc32c.ts";

/** Bytes kept back before they are written without a flush being asked for. */
const BUFFER_BYTES = 64 * 1024;
const SESSION_START = 1;
let filesMade = 0;

/** One event file; several in a folder form one run. */
export class EventWriter {
  readonly path: string;
  #descriptor: number | undefined;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;

  private constructor(path: string, descriptor: number) {
    this.path = path;
    this.#descriptor = descriptor;
  }

  /**
   * Starts a new event file in `folder`, which is made if need be. With `resumeAfter`, TensorBoard is told to forget
   * what earlier files of the folder hold beyond that step. Throws IO.
   */
  static create(folder: string, options: { resumeAfter?: number | undefined } = {}): EventWriter {
    knownOptions(["resumeAfter"], options, "EventWriter");
    return withIoErrorsSync("write event file in", folder, () => {
      makeFolderSync(folder);
      const seconds = String(Math.floor(Date.now() / 1000)).padStart(10, "0");
      // Read in the order of their names: the counter keeps files of one second in the order of their making.
      const count = String(filesMade++).padStart(4, "0");
      const path = join(folder, `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.${count}`);
      const writer = new EventWriter(path, openSync(path, "ax"));
      writer.#event(Date.now() / 1000, 0, bytesField(3, Buffer.from("brain.Event:2")));
      if (options.resumeAfter !== undefined) {
        writer.#event(Date.now() / 1000, options.resumeAfter + 1, bytesField(7, varintField(1, SESSION_START)));
      }
      writer.flush();
      return writer;
    });
  }

  /**
   * Adds one point of the curve `tag`; `wallTime` in seconds since 1970 (default: now). Throws CONFIG, IO, DISPOSED.
   */
  scalar(tag: string, value: number, step: number, wallTime = Date.now() / 1000): void {
    if (tag === "") throw new MemformerError("CONFIG", "tag: expected a name, got an empty string");
    if (!Number.isSafeInteger(step) || step < 0) {
      throw new MemformerError("CONFIG", `step: expected a whole number of at least 0, got ${step}`, {
        details: { step },
      });
    }
    const point = Buffer.concat([bytesField(1, Buffer.from(tag)), floatField(2, value)]);
    this.#event(wallTime, step, bytesField(5, bytesField(1, point)));
  }

  /** Hands all points so far to the operating system. Throws IO; what could not be written waits for the next flush. */
  flush(): void {
    if (this.#descriptor === undefined) return;
    const bytes = Buffer.concat(this.#waiting);
    let done = 0;
    try {
      withIoErrorsSync("write", this.path, () => {
        while (done < bytes.length) done += writeSync(this.#descriptor!, bytes, done);
      });
    } finally {
      this.#waiting = done < bytes.length ? [bytes.subarray(done)] : [];
      this.#waitingBytes = bytes.length - done;
    }
  }

  /** Flushes and closes; once more is harmless. */
  close(): void {
    if (this.#descriptor === undefined) return;
    try {
      this.flush();
    } finally {
      closeSync(this.#descriptor);
      this.#descriptor = undefined;
    }
  }

  #event(wallTime: number, step: number, what: Buffer): void {
    if (this.#descriptor === undefined) throw new MemformerError("DISPOSED", `${this.path} has been closed`);
    const record = frame(Buffer.concat([doubleField(1, wallTime), varintField(2, step), what]));
    this.#waiting.push(record);
    this.#waitingBytes += record.length;
    if (this.#waitingBytes >= BUFFER_BYTES) this.flush();
  }
}

function frame(data: Buffer): Buffer {
  const head = Buffer.alloc(12);
  head.writeBigUInt64LE(BigInt(data.length));
  head.writeUInt32LE(maskedCrc32c(head.subarray(0, 8)), 8);
  const foot = Buffer.alloc(4);
  foot.writeUInt32LE(maskedCrc32c(data));
  return Buffer.concat([head, data, foot]);
}

/** Field numbers stay below 16, so that number and wire type fit one byte. */
const key = (field: number, wireType: number): Buffer => Buffer.of((field << 3) | wireType);

function varint(value: number): Buffer {
  const bytes: number[] = [];
  // By division: steps may exceed the 32 bits of JavaScript's shifts.
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Buffer.from([...bytes, value]);
}

const varintField = (field: number, value: number): Buffer => Buffer.concat([key(field, 0), varint(value)]);

function bytesField(field: number, bytes: Buffer): Buffer {
  return Buffer.concat([key(field, 2), varint(bytes.length), bytes]);
}

function doubleField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([key(field, 1), bytes]);
}

function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([key(field, 5), bytes]);
}
