/**
 * The text that a run's model is evaluated on: what the run held out, as far as it is there; and words on what is
 * another.
 */
import type { Dataset, Split, Tokenizer, TokenSource } from "../data/index.ts";
import type { PartialRunConfig, RunSettings } from "./config.ts";
import { openRunData } from "./data.ts";
import { hashesOf, heldOutOf, identityOf, isSame, sizeOf, type RunIdentity } from "./identity.ts";
import { placedSettings } from "./settings.ts";

interface Asked {
  readonly run: RunSettings["run"];
  /** The settings of the model's run, if it came from one. */
  readonly before: PartialRunConfig | undefined;
  /** What was given on the command line. */
  readonly given: PartialRunConfig;
  readonly split: Split;
}

/** The options that decide which text a run reads, and how it is divided. */
const deciding = ["documents", "field", "skipEmpty", "heldOut"] as const;

/**
 * Opens the text to evaluate on. A text that has grown since the run was begun is divided as the run divided it, so
 * that nothing is scored that was trained on; `notes` gets a sentence wherever that cannot be had, or is not known.
 */
export async function openHeldOutOf(
  identity: RunIdentity | undefined,
  { run, before, given, split }: Asked,
  tokenizer: Tokenizer,
  notes: string[],
  signal: AbortSignal,
): Promise<Dataset> {
  const sameText =
    before !== undefined && placedSettings({ ...before, run }).run["data"] === placedSettings(before).run["data"];
  const isOld = sameText && identity?.splits === undefined;
  const data = await openRunData(run, tokenizer, { signal, division: isOld ? "order" : "content" });
  if (isOld) {
    notes.push(
      "this run does not record its training text (memformer 0.1 made it), so whether the scored text was held out is unknown",
    );
  }
  if (identity?.splits === undefined || split === "train") return data;
  const then = identity.splits[split],
    keep = split === "valid" ? heldOutOf(identity) : undefined;
  const likewise = deciding.every((key) => given.run[key] === undefined || given.run[key] === before?.run[key]);
  const same = isSame(then, identityOf(data).splits![split]);
  let scored = data;
  if (
    same === false &&
    keep !== undefined &&
    likewise &&
    (sameText || data.names.some((name) => countOf(data.split(name), keep.hashes) > 0))
  ) {
    await data.close();
    scored = await openRunData(run, tokenizer, { signal, keep });
    notes.push(keptNote(keep.hashes, scored, isSame(then, identityOf(scored).splits![split]) === true));
  } else if (same !== true && sameText) {
    const why = likewise
      ? `it was ${sizeOf(then)} and is ${sizeOf(identityOf(data).splits![split])}`
      : "it is divided by other options";
    notes.push(
      `${same === false ? `${split} differs from that of the run: ${why}` : `whether ${split} is that of the run is unknown`}; ${doubt}`,
    );
  }
  const trained = countOf(scored.split(split), hashesOf(identity.splits["train"]) ?? new Set());
  if (trained > 0)
    notes.push(
      `${trained} of the ${documents(scored.split(split).documents)} scored ${trained === 1 ? "was" : "were"} trained on`,
    );
  return scored;
}

const doubt = "the scored text may have been trained on";

function countOf(source: TokenSource, hashes: ReadonlySet<bigint>): number {
  let count = 0;
  for (let i = 0; i < source.documents; i++) {
    const hash = source.documentHash?.(i);
    if (hash !== undefined && hashes.has(hash)) count++;
  }
  return count;
}

function keptNote(then: ReadonlySet<bigint>, { train, valid }: Dataset, whole: boolean): string {
  const texts = `the text has changed since the run was begun (now ${documents(train.documents + valid.documents)})`;
  if (whole)
    return `${texts}; scored is exactly what the run held out: ${documents(valid.documents)} of ${valid.tokens} tokens`;
  const still = countOf(valid, then),
    are = still === 1 ? "is" : "are";
  return still > 0
    ? `${texts}; of the ${documents(then.size)} that the run held out ${still} ${are} still there, and ${are} scored`
    : `${texts}, and nothing of what the run held out is there any more: it is divided anew, and ${doubt}`;
}

function documents(count: number): string {
  return `${count} document${count === 1 ? "" : "s"}`;
}
