/**
 * How likely a model takes each token of a prompt to be, given those before it. A step of the decoder a token, by
 * itself: reading alone costs a pass a segment.
 */
import type { TokenLogprob } from "../../generate/draw.ts";
import { unfitLogits } from "../../generate/sample.ts";
import type { Session } from "../../generate/session.ts";
import type { GeneratedToken } from "../../generate/turn.ts";
import type { Echo } from "./choice-text.ts";

/**
 * Reads `tokens` into a session at the start of a document. The first has no log-probability; each other has its own
 * and those of the `top` likeliest. `whole`: nothing will follow, so that half a character ends the text as U+FFFD.
 */
export async function scorePrompt(
  session: Session,
  tokens: readonly number[],
  { top, whole, signal }: { readonly top: number; readonly whole: boolean; readonly signal: AbortSignal },
): Promise<Echo> {
  const scored: GeneratedToken[] = [],
    decoder = session.tokenizer.decoder();
  let text = "";
  for (const [i, id] of tokens.entries()) {
    signal.throwIfAborted();
    const score = i === 0 ? {} : scoreOf(await session.logits(), id, top);
    await session.read([id]);
    scored.push({ id, offset: text.length, ...score });
    text += decoder.push([id]);
  }
  return { text: whole ? text + decoder.end() : text, tokens: scored };
}

/** Natural logarithms of softmax(logits). */
function scoreOf(
  logits: Float32Array | Float64Array,
  id: number,
  top: number,
): { logprob: number; top?: TokenLogprob[] } {
  let most = -Infinity,
    sum = 0;
  for (const logit of logits) most = Math.max(most, logit);
  for (const logit of logits) sum += Math.exp(logit - most);
  const total = most + Math.log(sum);
  if (!Number.isFinite(total)) throw unfitLogits();
  const logprob = logits[id]! - total;
  if (top === 0) return { logprob };
  return { logprob, top: likeliest(logits, top).map((each) => ({ id: each, logprob: logits[each]! - total })) };
}

/** The likeliest tokens, the likeliest first, the lower id first where two are as likely. */
function likeliest(logits: ArrayLike<number>, count: number): number[] {
  const best: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    if (best.length === count && !(logits[id]! > logits[best.at(-1)!]!)) continue;
    let place = best.length;
    while (place > 0 && logits[id]! > logits[best[place - 1]!]!) place--;
    best.splice(place, 0, id);
    best.length = Math.min(best.length, count);
  }
  return best;
}
