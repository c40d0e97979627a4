/** Calls that must fail: with their code and sentence, and with the engine as good as before. */
import { isMemformerError } from "../../lib/index.ts";
import { checkReference } from "./opcheck-forward.ts";
import { numbers } from "./opcheck-numbers.ts";
import { gradients, run } from "./opcheck-run.ts";
import type { Argument, Call, Misuse, OperatorSpec } from "./opcheck-spec.ts";

/** `args` are good ones, which `misuse` spoils. */
export async function checkMisuse<Args extends readonly Argument[]>(
  spec: Pick<OperatorSpec<never, Args>, "reference" | "plain">,
  misuse: Misuse<Args>,
  args: Args,
  call: Call,
): Promise<string[]> {
  const spoiled = misuse.arguments(...args);
  // The second way goes through autograd; its cotangent is never reached.
  const complaints = await rejection(run(call, spoiled), misuse);
  complaints.push(...(await rejection(gradients(call, spoiled, [numbers([])]), misuse)));
  for (const complaint of await checkReference(spec, args, call)) complaints.push(`afterwards, ${complaint}`);
  return complaints;
}

async function rejection(
  outcome: Promise<unknown>,
  { code, message }: Pick<Misuse<never>, "code" | "message">,
): Promise<string[]> {
  try {
    await outcome;
  } catch (error) {
    if (!isMemformerError(error)) throw error;
    const wanted = `ERR_MEMFORMER_${code}`;
    if (error.code !== wanted) return [`it fails with ${error.code}, expected ${wanted}: ${error.message}`];
    return message.test(error.message) ? [] : [`its sentence is "${error.message}", expected ${message}`];
  }
  return [`it is not refused, expected ${code}`];
}
