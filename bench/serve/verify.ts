/** Whether each client's texts are those of its own session: the same turns again, each session alone. */
import { Session, type Memformer, type Tokenizer } from "../../lib/index.ts";
import type { Client } from "./client.ts";

/** A sentence for every turn of `tokens` at most whose text or position is not what its session makes alone. */
export async function strangers(
  model: Memformer,
  tokenizer: Tokenizer,
  clients: readonly Client[],
  tokens: number,
): Promise<string[]> {
  const wrong: string[] = [];
  for (const [i, client] of clients.entries()) {
    using session = await Session.open(model, tokenizer);
    for (const { prompt, seed, text, position, vanished } of client.turns) {
      await session.read(prompt);
      let said = "";
      const maxTokens = vanished ? position - session.position : tokens;
      for await (const piece of session.generate({ maxTokens, seed })) said += piece;
      const same = vanished ? said.startsWith(text) : said === text;
      if (same && session.position === position) continue;
      wrong.push(
        `client ${i}, seed ${seed}: ${JSON.stringify(text)} at ${position}, alone ${JSON.stringify(said)} at ${session.position}`,
      );
      break;
    }
  }
  return wrong;
}
