/** The tokens of a step: rows of equal settings are drawn in one call, the others each by itself. */
import { applyOperator, type Tensor } from "../../engine/tensor.ts";
import { drawRows, type Drawing, type Drawn } from "../draw.ts";
import { unfitLogits } from "../sample.ts";
import type { ScheduledTurn } from "./scheduled-turn.ts";
import { chosenRows, type SlotLogits } from "./slots.ts";

/** Puts into `drawn` what rows draw from their logits, which are freed; calls `fail` for those that cannot. */
export async function drawBatch(
  { rows, logits }: SlotLogits<ScheduledTurn>,
  device: string,
  drawn: Map<ScheduledTurn, Drawn>,
  fail: (turn: ScheduledTurn, error: unknown) => void,
): Promise<void> {
  const attempt = async (turns: readonly ScheduledTurn[], body: () => Promise<void>): Promise<void> => {
    try {
      await body();
    } catch (error) {
      for (const turn of turns) fail(turn, error);
    }
  };
  const work = alike(rows).map(async (group) =>
    attempt(group, async () => {
      if (group[0]!.drawing!.batchKey === undefined) {
        const [turn] = group as [ScheduledTurn];
        using row = applyOperator("aten::narrow", logits, 0, rows.indexOf(turn), 1);
        drawn.set(turn, await turn.drawing!.draw(row, turn.document));
        return;
      }
      const own = group.length === rows.length ? logits : chosenRows(logits, rows, group, device);
      const ids = drawRows(
        own,
        group.map(({ drawing }) => drawing!),
        group.map(({ document }) => document.position),
      );
      if (own !== logits) own.dispose();
      for (const [i, id] of (await read(ids)).entries()) {
        if (id < 0) fail(group[i]!, unfitLogits());
        else drawn.set(group[i]!, { id });
      }
    }),
  );
  logits.dispose(); // all that is made of it has been enqueued
  await Promise.all(work);
}

/** Rows in groups that draw in one call. */
function alike(rows: readonly ScheduledTurn[]): ScheduledTurn[][] {
  const groups = new Map<unknown, ScheduledTurn[]>(),
    tokenizers: unknown[] = [];
  for (const row of rows) {
    const key = batchKeyOf(row.drawing!, row.tokenizer, tokenizers) ?? row;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [row]);
    else group.push(row);
  }
  return [...groups.values()];
}

/** Gaps are a tokenizer's: rows of others are not drawn with them. */
function batchKeyOf({ batchKey, facts }: Drawing, tokenizer: unknown, tokenizers: unknown[]): string | undefined {
  if (batchKey === undefined) return undefined;
  const shared = facts.gaps === null ? facts.tokens : tokenizer;
  if (!tokenizers.includes(shared)) tokenizers.push(shared);
  return `${tokenizers.indexOf(shared)} ${batchKey}`;
}

async function read(ids: Tensor): Promise<number[]> {
  const reading = ids.data();
  ids.dispose();
  return Array.from(await reading, Number);
}
