/** A Python with PyTorch, for tests against programs in it: MEMFORMER_PYTHON, else python3. */
import { spawn } from "node:child_process";

export const python = process.env["MEMFORMER_PYTHON"] ?? "python3";

/** Runs it to its end; `code` is null where it could not be started. */
export async function runPython(args: readonly string[], input = ""): Promise<{ code: number | null; said: string }> {
  const child = spawn(python, args, { stdio: "pipe" });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
  }
  child.stdin
    .on("error", () => {
      /* it ended before it read */
    })
    .end(input);
  return await new Promise((resolve) => {
    child.on("error", ({ message }) => {
      resolve({ code: null, said: message });
    });
    child.on("close", (code) => {
      resolve({ code, said });
    });
  });
}
