import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { withNewNames } from "../old-names.ts";
import type { TokenSource } from "./token-source.ts";

const whole = z.int().min(0);
const schema = z.strictObject({
  stream: z.preprocess(
    withNewNames,
    z.strictObject({
      documents: whole,
      tokens: whole,
      lanes: whole,
      segmentLength: whole,
      seed: whole.nullable(),
      documentLimit: whole.nullable(),
      ends: z.boolean().optional(),
      longestFirst: z.boolean().optional(),
      infilling: z.number().optional(),
      recallPrevious: z.number().optional(),
      /**
       * The tokenizer's name and the hash of the documents; null where a source has none, absent in positions of 0.1.
       */
      text: z.string().nullable().optional(),
    }),
  ),
  epoch: whole,
  next: whole,
  lanes: z.array(z.strictObject({ document: whole, offset: whole }).nullable()),
  segments: whole,
  tokens: whole,
});

/**
 * Where a TokenStream stands; plain JSON. `stream` says of which one; `epoch` and `next` name the document that the
 * next free lane takes, in shuffled order; each lane has its document and the first token of its next segment, or
 * null.
 */
export type StreamPosition = z.infer<typeof schema>;

/** What positions leave out where it is not on. */
const notOn = [
  "ends",
  "longestFirst",
  "infilling",
  "recallPrevious",
] as const satisfies readonly (keyof StreamPosition["stream"])[];

/** @throws MemformerError `DATA` unless `position` is one of the stream described by `stream`. */
export function checkPosition(
  position: unknown,
  stream: StreamPosition["stream"],
  source: TokenSource,
  pieces: number,
): void {
  const parsed = schema.safeParse(position);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw bad(`This is not a position of a token stream: ${issue.path.join(".")} ${issue.message}.`);
  }
  for (const key of [...Object.keys(stream), ...notOn] as (keyof typeof stream)[]) {
    const [found, expected] = [parsed.data.stream[key] ?? null, stream[key] ?? null];
    const isUnknown = key === "text" && !(found && expected);
    if (found === expected || isUnknown) continue;
    if (key === "text")
      throw bad(`The position is of a stream of another text or tokenizer (${found}); here it is ${expected}.`);
    throw bad(`The position is of a stream with ${key} ${found ?? "none"}; here it is ${expected ?? "none"}.`);
  }
  const { lanes, next } = parsed.data;
  if (lanes.length !== stream.lanes) throw bad(`The position has ${lanes.length} lanes instead of ${stream.lanes}.`);
  if (next > pieces) throw bad(`The position names document ${next} of ${pieces}.`);
  for (const lane of lanes) {
    const inside = !lane || (lane.document < source.documents && lane.offset < source.documentLength(lane.document));
    if (!inside) throw bad(`The position stands outside document ${lane.document}.`);
  }
}

function bad(message: string): MemformerError {
  return new MemformerError("DATA", message);
}
