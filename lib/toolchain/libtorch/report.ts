/** Progress reports of a long step, and how a terminal or a log file shows them. */

/** A sentence, or how far the step is. */
export type Report = (event: string | { readonly what: string; readonly done: number; readonly total: number }) => void;

const megabyte = 1e6;

/** Megabytes, the unit package indexes use. */
export function inMegabytes(bytes: number): string {
  return `${(bytes / megabyte).toFixed(bytes < 10 * megabyte ? 1 : 0)} MB`;
}

/**
 * Writes reports to `stream`: on a terminal progress is one line redrawn five times a second, elsewhere one line for
 * each quarter. Give it stderr, so that stdout stays for results.
 */
export function reportTo(stream: NodeJS.WriteStream): Report {
  let drawn = 0;
  let open = false;
  let quarter = -1;
  return (event) => {
    if (typeof event === "string") {
      if (open) stream.write("\r\x1b[K");
      open = false;
      stream.write(`${event}\n`);
      return;
    }
    const { what, done, total } = event;
    const text = `${what}  ${Math.floor((100 * done) / total)} % of ${inMegabytes(total)}`;
    if (stream.isTTY) {
      if (Date.now() - drawn < 200 && done < total) return;
      drawn = Date.now();
      open = done < total;
      stream.write(`\r\x1b[K${text}${open ? "" : "\n"}`);
      return;
    }
    const now = Math.floor((4 * done) / total);
    if (now !== quarter && now > 0) stream.write(`${text}\n`);
    quarter = now;
  };
}
