/** The tokens of a step: rows of equal settings are drawn in one call, the others each by itself. */
import { applyOperator, type Tensor } from "../../engine/tensor.ts";
import { drawRows, type Drawing, type Drawn } from "../draw.ts";
import { unfitLogits } from "../sample.ts";
import type { ScheduledTurn } from "./scheduled-turn.ts";
import { chosenRows, type SlotLogits } from "./slots.ts";

/** Draws under way. */
export interface Draws {
  /** Turns that have a token nobody has looked at yet, and those tokens (R) int64, in the same order; the caller's. */
  readonly turns: readonly ScheduledTurn[];
  readonly tokens: readonly Tensor[];
  /** Resolves when `drawn` holds what the rows drew. */
  readonly done: Promise<void>;
}

/**
 * Draws from the logits of rows, which are freed; puts into `drawn` what comes of it, and calls `fail` for rows that
 * cannot draw. All that can be enqueued has been when it returns.
 */
export function drawBatch(
  { rows, logits }: SlotLogits<ScheduledTurn>,
  device: string,
  drawn: Map<ScheduledTurn, Drawn>,
  fail: (turn: ScheduledTurn, error: unknown) => void,
): Draws {
  const turns: ScheduledTurn[] = [],
    tokens: Tensor[] = [];
  let early = true; // a draw that waits for its caller's function comes too late
  const enqueued = (group: readonly ScheduledTurn[], ids: Tensor): void => {
    if (!early) return;
    turns.push(...group);
    tokens.push(ids.detach());
  };
  const attempt = async (group: readonly ScheduledTurn[], body: () => Promise<void>): Promise<void> => {
    try {
      await body();
    } catch (error) {
      for (const turn of group) fail(turn, error);
    }
  };
  const work = alike(rows).map(async (group) =>
    attempt(group, async () => {
      if (group[0]!.drawing!.batchKey === undefined) {
        const [turn] = group as [ScheduledTurn];
        using row = applyOperator("aten::narrow", logits, 0, rows.indexOf(turn), 1);
        drawn.set(
          turn,
          await turn.drawing!.draw(row, turn.document, (token) => {
            enqueued(group, token);
          }),
        );
        return;
      }
      const own = group.length === rows.length ? logits : chosenRows(logits, rows, group, device);
      using ids = drawRows(
        own,
        group.map(({ drawing }) => drawing!),
        group.map(({ document }) => document.position),
      );
      if (own !== logits) own.dispose();
      const read = ids.data();
      enqueued(group, ids);
      for (const [i, id] of Array.from(await read, Number).entries()) {
        if (id < 0) fail(group[i]!, unfitLogits());
        else drawn.set(group[i]!, { id });
      }
    }),
  );
  logits.dispose(); // all that is made of it has been enqueued
  early = false;
  return { turns, tokens, done: Promise.all(work).then(() => undefined) };
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
