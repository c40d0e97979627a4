/** What a rank says with every sign of life, and the sentences made of it. */

/** Who a rank is; how it ended, if it has. */
export interface Words {
  readonly host: string;
  readonly pid: number;
  /** It has left in good order. */
  readonly left?: boolean;
  /** Why it ends; `peer`: the rank that it blames, if not itself. */
  readonly failed?: { readonly message: string; readonly peer?: number };
}

export function readWords(text: string): Words | undefined {
  if (text === "") return undefined;
  try {
    return JSON.parse(text) as Words;
  } catch {
    return undefined;
  }
}

/** `rank 1 (process 4242 on node7)` */
export function rankName(rank: number, words: Words | undefined): string {
  return words === undefined ? `rank ${rank}` : `rank ${rank} (process ${words.pid} on ${words.host})`;
}
