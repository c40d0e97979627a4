/** What a saved session is bound to: the weights that made its state, and the tokenizer that made its tokens. */
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import { MemformerError } from "../errors.ts";
import type { SessionBinding } from "./saved-session.ts";
import type { SessionModel } from "./session-model.ts";
import { tokenizerFingerprint } from "./tokenizer-fingerprint.ts";

/** Of this model and tokenizer. */
export async function bindingOf(
  model: SessionModel,
  tokenizer: Tokenizer,
): Promise<{ weights: string; tokenizer: { name: string; fingerprint: string } }> {
  const { name } = tokenizer;
  return { weights: await model.weightsHash(), tokenizer: { name, fingerprint: tokenizerFingerprint(tokenizer) } };
}

/** Throws MemformerError CHECKPOINT_MISMATCH for a session of other weights. */
export async function expectWeights(found: SessionBinding["weights"], model: SessionModel): Promise<void> {
  const expected = found === undefined ? undefined : await model.weightsHash();
  if (found === expected) return;
  throw new MemformerError(
    "CHECKPOINT_MISMATCH",
    "the session is of another model: it was saved with other weights than this model's",
    { details: { expected, found } },
  );
}

/** The same for another tokenizer. */
export function expectTokenizer({ name, fingerprint }: SessionBinding["tokenizer"], tokenizer: Tokenizer): void {
  if (name !== tokenizer.name) {
    throw new MemformerError(
      "CHECKPOINT_MISMATCH",
      `the session was made with tokenizer "${name}", not "${tokenizer.name}"`,
    );
  }
  if (fingerprint === undefined || fingerprint === tokenizerFingerprint(tokenizer)) return;
  throw new MemformerError(
    "CHECKPOINT_MISMATCH",
    `the session was made with another tokenizer of the name "${name}": its tokens differ`,
  );
}
