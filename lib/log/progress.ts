/**
 * Progress of a run: a bar on a terminal, a plain line every few seconds elsewhere (files, pipes, CI). A stream that
 * can no longer be written to (its reader gone, its disk full, its terminal closed) makes the display silent, and
 * nothing else.
 */
import { SingleBar } from "cli-progress";
import { MemformerError } from "../errors.ts";
import { knownOptions, optionNames } from "../options.ts";
import { formatDuration } from "./format.ts";

/** Names to already formatted texts, shown in this order. */
export type ProgressFields = Readonly<Record<string, string>>;

export interface Progress {
  /** Says that `step` of the total are done. */
  update(step: number, fields?: ProgressFields): void;
  /** Prints a line that stays: above the bar on a terminal. */
  note(line: string): void;
  /** Ends the display, the newest state shown. Once more is harmless; updates after it are ignored. */
  stop(): void;
}

export interface ProgressOptions {
  /** What is being done, e.g. `"train"`. */
  readonly label: string;
  /** Steps in all, at least 1. */
  readonly total: number;
  /** Where to write (default `process.stderr`); its `isTTY` decides between bar and lines. */
  readonly stream?: NodeJS.WritableStream & { readonly isTTY?: boolean };
  /** Steps done before, e.g. by the run that is resumed (default 0); the remaining time is told without them. */
  readonly start?: number;
  /** Seconds between plain lines (default 10). */
  readonly every?: number;
  /** Clock in milliseconds (default `performance.now`). */
  readonly now?: () => number;
}

const names = optionNames<ProgressOptions>({
  label: true,
  total: true,
  stream: true,
  start: true,
  every: true,
  now: true,
});

/** Starts a display. Throws CONFIG for a total, start or interval that is none. */
export function createProgress(options: ProgressOptions): Progress {
  knownOptions(names, options, "progress");
  const { total, start = 0, every = 10 } = options;
  check("total", total, Number.isSafeInteger(total) && total >= 1, "a whole number of at least 1");
  check(
    "start",
    start,
    Number.isSafeInteger(start) && start >= 0 && start <= total,
    `a whole number from 0 to ${total}`,
  );
  check("every", every, every >= 0, "a number of seconds of at least 0");
  const settled = { stream: process.stderr, now: () => performance.now(), ...options, start, every };
  return silentOnFailure(settled.stream, settled.stream.isTTY ? barProgress(settled) : lineProgress(settled));
}

/** The same display until its stream fails, by an event or by throwing; nothing is shown from then on. */
function silentOnFailure(stream: Settled["stream"], shown: Progress): Progress {
  let lost = false;
  const lose = (): void => {
    if (lost) return;
    lost = true;
    try {
      shown.stop(); // of a bar also the timer that draws it
    } catch {
      // It was to write its last state to the same stream.
    }
  };
  const unlessLost = (show: () => void): void => {
    if (lost) return;
    try {
      show();
    } catch {
      lose();
    }
  };
  // Stays after stop(): what was written last may fail later.
  stream.on("error", lose);
  return {
    update: (step, fields) => {
      unlessLost(() => {
        shown.update(step, fields);
      });
    },
    note: (line) => {
      unlessLost(() => {
        shown.note(line);
      });
    },
    stop: () => {
      unlessLost(() => {
        shown.stop();
      });
    },
  };
}

type Settled = Required<ProgressOptions>;

function check(name: string, value: number, good: boolean, expected: string): void {
  if (!good) {
    throw new MemformerError("CONFIG", `${name}: expected ${expected}, got ${value}`, { details: { [name]: value } });
  }
}

function barProgress({ stream, label, total, start, now }: Settled): Progress {
  const bar = new SingleBar({
    stream,
    barsize: 20,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
    format: "{label} {bar} {percentage} % {value}/{total}{tail}",
    // It draws only what changed, and cannot know that a note has moved it.
    forceRedraw: true,
    // Signals belong to the program: its own handler stops the bar, after the step that is under way.
    gracefulExit: false,
  });
  const remaining = estimate(total, start, now);
  bar.start(total, start, { label, tail: "" });
  return {
    update(step, fields = {}) {
      if (bar.isActive) bar.update(step, { tail: tail({ ...fields, left: remaining(step) }) });
    },
    note(line) {
      if (!bar.isActive) return void stream.write(`${line}\n`);
      // Erase the bar, print the line wrapped (the bar has wrapping off), and save the cursor anew: at its end the bar
      // goes back to where the cursor was saved, which would otherwise be above the line just printed.
      stream.write(`\r\u001b[K\u001b[?7h${line}\n\u001b[?7l\u001b7`);
      bar.render();
    },
    stop() {
      if (bar.isActive) bar.stop();
    },
  };
}

function lineProgress({ stream, label, total, start, every, now }: Settled): Progress {
  const remaining = estimate(total, start, now);
  let due = -Infinity;
  let waiting: string | undefined;
  let stopped = false;
  return {
    update(step, fields = {}) {
      if (stopped) return;
      const percent = Math.floor((100 * step) / total);
      waiting = `${label} ${percent} % ${step}/${total}${tail({ ...fields, left: remaining(step) })}\n`;
      if (now() < due) return;
      stream.write(waiting);
      waiting = undefined;
      due = now() + every * 1000;
    },
    note(line) {
      stream.write(`${line}\n`);
    },
    stop() {
      if (waiting !== undefined) stream.write(waiting);
      waiting = undefined;
      stopped = true;
    },
  };
}

/** Time left by the mean speed since the display began; nothing to tell before the first step and after the last. */
function estimate(total: number, start: number, now: () => number): (step: number) => string {
  const began = now();
  return (step) => {
    if (step <= start || step >= total) return "";
    return formatDuration(((now() - began) / 1000 / (step - start)) * (total - step));
  };
}

function tail(fields: ProgressFields): string {
  return Object.entries(fields)
    .filter(([, text]) => text !== "")
    .map(([name, text]) => ` · ${name} ${text}`)
    .join("");
}
