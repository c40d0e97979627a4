/** mocha's own `spec` report, then as the last line the counts in one fixed form: `N passed, N failed, N skipped`. */
import Mocha from "mocha";

export default class Counting extends Mocha.reporters.Spec {
  epilogue() {
    super.epilogue();
    const { passes, failures, pending } = this.stats;
    process.stdout.write(`${passes} passed, ${failures} failed, ${pending} skipped\n`);
  }
}
