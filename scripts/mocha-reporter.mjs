/**
 * mocha's own `spec` report, then the files that took longest, and as the last line the counts in one fixed form:
 * `N passed, N failed, N skipped`.
 */
import { relative } from "node:path";
import Mocha from "mocha";

/** Files that are named, each of at least so many seconds. */
const MOST = 20,
  LEAST = 10;

export default class Counting extends Mocha.reporters.Spec {
  /** Seconds of each file, hooks included. */
  #seconds = new Map();

  constructor(runner, options) {
    super(runner, options);
    const outermost = (suite) => suite.parent?.root === true && suite.file !== undefined;
    let began = 0;
    runner.on("suite", (suite) => {
      if (outermost(suite)) began = performance.now();
    });
    runner.on("suite end", (suite) => {
      if (!outermost(suite)) return;
      const before = this.#seconds.get(suite.file) ?? 0;
      this.#seconds.set(suite.file, before + (performance.now() - began) / 1000);
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
