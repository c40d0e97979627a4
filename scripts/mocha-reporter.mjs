/**
 * mocha's own `spec` report, then the files that took longest, and as the last line the counts in one fixed form:
 * `N passed, N failed, N skipped`.
 */
import { relative } from "node:path";
import Mocha from "mocha";

/** Files that are named, each of at least so many seconds. */
const MOST = 30,
  LEAST = 10;

export default class Counting extends Mocha.reporters.Spec {
  /** Seconds of each file's tests. */
  #seconds = new Map();

  constructor(runner, options) {
    super(runner, options);
    // Of tests, for where files run in several processes a file's events come together when it is over.
    runner.on("test end", ({ file, duration = 0 }) => {
      this.#seconds.set(file, (this.#seconds.get(file) ?? 0) + duration / 1000);
    });
  }

  epilogue() {
    super.epilogue();
    const slowest = [...this.#seconds].filter(([, seconds]) => seconds >= LEAST).sort(([, a], [, b]) => b - a);
    for (const [file, seconds] of slowest.slice(0, MOST))
      process.stdout.write(`${seconds.toFixed(0).padStart(5)} s  ${relative(process.cwd(), file)}\n`);
    const { passes, failures, pending } = this.stats;
    process.stdout.write(`${passes} passed, ${failures} failed, ${pending} skipped\n`);
  }
}
