/**
 * Output never decides the outcome: a standard stream that nobody reads, that is full or gone, ends no
 * command's work.
 */
import { withIoErrors } from "../io-error.ts";

/** From now on a standard stream that cannot be written to is silent. */
export function silenceLostStreams(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
}

/**
 * Writes what the user asked for to the standard output, and waits until it is on its way. False when nobody reads it
 * any more (`memformer generate … | head`). Throws MemformerError IO when it is lost for another reason, as on a full
 * disk.
 */
export async function print(text: string): Promise<boolean> {
  return withIoErrors(
    "write to",
    "the standard output",
    () =>
      new Promise((resolve, reject) => {
        process.stdout.write(text, (error?: NodeJS.ErrnoException | null) => {
          if (!error) resolve(true);
          else if (error.code === "EPIPE") resolve(false);
          else reject(error);
        });
      }),
  );
}
