import { expect } from "chai";
import { Writable } from "node:stream";
import { setImmediate as turn } from "node:timers/promises";
import { createProgress } from "../lib/log/progress.ts";

/** A stream that keeps what it is given; as a terminal it also has the width that a bar asks for. */
function capture(isTTY: boolean): Writable & { isTTY: boolean; columns: number; text: string } {
  const stream = Object.assign(new Writable(), { isTTY, columns: 120, text: "" });
  stream._write = (chunk, _encoding, done) => {
    stream.text += String(chunk);
    done();
  };
  return stream;
}

/** What a terminal shows after `text`: carriage return, new line, column, erase to the right, save and restore. */
function screen(text: string): string[] {
  const rows: string[] = [""];
  let [row, column, saved] = [0, 0, [0, 0] as [number, number]];
  for (const [token] of text.matchAll(/\x1b\[[?\d;]*[A-Za-z]|\x1b[78]|[^]/gu)) {
    const line = rows[row] ?? "";
    if (token === "\r") column = 0;
    else if (token === "\n") [row, column] = [row + 1, 0];
    else if (token === "\x1b7") saved = [row, column];
    else if (token === "\x1b8") [row, column] = saved;
    else if (/^\x1b\[\d*G$/.test(token)) column = Number(token.slice(2, -1) || 1) - 1;
    else if (/^\x1b\[0?K$/.test(token)) rows[row] = line.slice(0, column);
    else if (!token.startsWith("\x1b")) {
      rows[row] = line.slice(0, column).padEnd(column) + token + line.slice(column + 1);
      column++;
    }
  }
  return Array.from(rows, (line) => line ?? "");
}

describe("progress", () => {
  it("prints plain lines off a terminal: the first at once, one every ten seconds, the newest at the end", () => {
    const stream = capture(false);
    let seconds = 0;
    const progress = createProgress({ stream, total: 200, label: "train", now: () => seconds * 1000 });
    for (let step = 1; step <= 50; step++) {
      seconds = step / 2;
      progress.update(step, { loss: `${step}.0` });
    }
    progress.note("checkpoint written");
    progress.stop();
    progress.stop();
    progress.update(51);
    expect(stream.text.split("\n")).to.deep.equal([
      "train 0 % 1/200 · loss 1.0 · left 1 min 40 s",
      "train 10 % 21/200 · loss 21.0 · left 1 min 30 s",
      "train 20 % 41/200 · loss 41.0 · left 1 min 20 s",
      "checkpoint written",
      "train 25 % 50/200 · loss 50.0 · left 1 min 15 s",
      "",
    ]);
  });

  it("prints at the interval it is given, and the last step once", () => {
    const stream = capture(false);
    let seconds = 0;
    const progress = createProgress({ stream, total: 4, label: "x", every: 0, now: () => seconds * 1000 });
    for (let step = 1; step <= 4; step++) progress.update(step, { "": "" });
    seconds = 9;
    progress.stop();
    expect(stream.text).to.equal("x 25 % 1/4 · left 0 s\nx 50 % 2/4 · left 0 s\nx 75 % 3/4 · left 0 s\nx 100 % 4/4\n");
  });

  it("tells the time left of a resumed run by its own steps alone", () => {
    const stream = capture(false);
    let seconds = 0;
    const progress = createProgress({
      stream,
      total: 200,
      start: 100,
      label: "train",
      every: 0,
      now: () => seconds * 1000,
    });
    progress.update(100);
    seconds = 20;
    progress.update(110);
    expect(stream.text).to.equal("train 50 % 100/200\ntrain 55 % 110/200 · left 3 min\n");
  });

  it("draws a bar on a terminal with notes above it, and leaves both on the screen", () => {
    const stream = capture(true);
    const progress = createProgress({ stream, total: 4, label: "train" });
    try {
      progress.update(1, { loss: "5.1" });
      progress.note("first note");
      progress.update(2, { loss: "4.2" });
      progress.note("second note");
      expect(screen(stream.text)[2]).to.equal("train ██████████░░░░░░░░░░ 50 % 2/4 · loss 4.2 · left 0 s");
      progress.note("third note");
      expect(screen(stream.text)[3]).to.equal("train ██████████░░░░░░░░░░ 50 % 2/4 · loss 4.2 · left 0 s");
      progress.update(4, { loss: "3.3" });
    } finally {
      progress.stop();
    }
    progress.note("after");
    expect(screen(stream.text)).to.deep.equal([
      "first note",
      "second note",
      "third note",
      "train ████████████████████ 100 % 4/4 · loss 3.3",
      "after",
    ]);
  });

  for (const isTTY of [false, true]) {
    it(`falls silent where its stream fails, ${isTTY ? "a terminal" : "a pipe"}`, async () => {
      let asked = 0;
      const stream = capture(isTTY);
      stream._write = (_chunk, _encoding, done) => {
        asked++;
        done(Object.assign(new Error("write EPIPE"), { code: "EPIPE" }));
      };
      const progress = createProgress({ stream, total: 4, label: "train", every: 0 });
      progress.note("a note");
      await turn();
      const before = asked;
      progress.update(1);
      progress.note("another");
      progress.stop();
      await turn();
      expect(asked).to.equal(before);
      const throwing = Object.assign(capture(isTTY), {
        write: (): never => {
          throw new Error("gone");
        },
      });
      if (isTTY) return; // a bar draws when it is made
      const other = createProgress({ stream: throwing, total: 4, label: "train", every: 0 });
      other.update(1);
      other.note("a note");
      other.stop();
    });
  }

  it("leaves signals to the program", () => {
    const before = process.listenerCount("SIGINT");
    const progress = createProgress({ stream: capture(true), total: 4, label: "train" });
    expect(process.listenerCount("SIGINT")).to.equal(before);
    progress.stop();
  });

  it("refuses a total, a start and an interval that are none", () => {
    const stream = capture(false);
    const cases: [object, string][] = [
      [{ total: 0 }, "total: expected a whole number of at least 1, got 0"],
      [{ total: NaN }, "total: expected a whole number of at least 1, got NaN"],
      [{ total: 5, start: 6 }, "start: expected a whole number from 0 to 5, got 6"],
      [{ total: 5, every: -1 }, "every: expected a number of seconds of at least 0, got -1"],
    ];
    for (const [options, message] of cases) {
      expect(() => createProgress({ stream, label: "x", ...options } as never))
        .to.throw(message)
        .with.property("code", "ERR_MEMFORMER_CONFIG");
    }
  });
});
