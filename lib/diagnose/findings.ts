/** Puts measures into words: the verdict first, then its possible causes. */
import type { Diagnosis } from "./measure.ts";

/**
 * How a memory stands. used: another text's memory costs something; ignored: it costs nothing; collapsed: there is no
 * other, all texts have the same.
 */
export type Verdict = "used" | "ignored" | "collapsed";

/** A verdict in words. */
export interface Findings {
  readonly verdict: Verdict;
  /** The verdict's sentence, then a sentence a cause. */
  readonly sentences: readonly string[];
}

/** Where a measure begins to mean something. Shares, nats, logits, norms beside a slot's, segments. */
const limits = {
  textShare: 1e-4,
  shuffled: 0.003,
  slotShare: 0.05,
  tokenShare: 0.1,
  valueShare: 0.05,
  logit: 40,
  valueNorm: 4,
  halfLife: 2,
  gradient: 0.05,
  source: 0.01,
};

/** The verdict and its causes, of what {@link diagnose} measured. */
export function findings(diagnosis: Diagnosis): Findings {
  const { costs, memory, layers, lags } = diagnosis,
    last = memory.at(-1)!,
    verdict = verdictOf(diagnosis);
  const percent = (share: number): string => `${(100 * share).toPrecision(2)} %`,
    nats = (value: number): string => `${value.toFixed(4)} nats a token`;
  const sentences = [
    {
      used: `The memory is used: another text's memory costs ${nats(costs.shuffled)}, the learned start ${nats(costs.initial)}.`,
      ignored: `The memory is ignored: it differs from text to text, but another text's memory costs only ${nats(costs.shuffled)}.`,
      collapsed: `The memory has collapsed: ${percent(last.textShare)} of it differs from text to text, so it tells nothing about a text.`,
    }[verdict],
  ];
  const say = (when: boolean, sentence: string): void => {
    if (when) sentences.push(sentence);
  };
  say(
    last.slotShare < limits.slotShare,
    `All slots of a text are nearly the same vector: only ${percent(last.slotShare)} of them differs from slot to slot.`,
  );
  say(
    diagnosis.hiddenTokenShare < limits.tokenShare,
    `Tokens drown: ${percent(diagnosis.hiddenTokenShare)} of what the writer reads differs from token to token (residualStart, embeddingDeviation).`,
  );
  say(
    diagnosis.valueTokenShare < limits.valueShare && diagnosis.hiddenTokenShare >= limits.tokenShare,
    `The writer's values are nearly the same for every token: ${percent(diagnosis.valueTokenShare)} differs (writerValues centered).`,
  );
  say(
    diagnosis.valueNorm > limits.valueNorm,
    `Values outweigh slots: their median norm is ${diagnosis.valueNorm.toFixed(1)} beside 1, so a small weight overwrites a slot (writerValues normed).`,
  );
  say(
    diagnosis.halfLife < limits.halfLife,
    `Slots forget quickly: half of what they hold is gone after ${diagnosis.halfLife.toFixed(1)} segments, with ||v|| ${diagnosis.biasNorm.toPrecision(2)} and a weight ` +
      `of ${diagnosis.selfWeight.toFixed(2)} on themselves (forgettingBias).`,
  );
  say(last.overwritten > 0.5, `${percent(last.overwritten)} of the slots are overwritten by a segment.`);
  say(last.latching > 0.99, "Every slot keeps what it holds: nothing is written.");
  const [near, far] = [lags[0], lags.at(-1)];
  say(
    near !== undefined && far !== undefined && far.lag > 0 && far.memory < limits.gradient * near.memory,
    `The gradient of the memory fades: after ${far?.lag} segments ${percent((far?.memory ?? 0) / (near?.memory ?? 1))} of it is left.`,
  );
  for (const { name, logits } of layers)
    for (const [kind, logit] of Object.entries(logits)) {
      say(
        logit > limits.logit,
        `${name}.${kind} has logits of ${logit.toFixed(0)}: its softmax is a maximum, and its gradient leaps (queryKeyNorm).`,
      );
    }
  say(
    diagnosis.writerLogit > 4 * limits.logit,
    `The writer has logits of ${diagnosis.writerLogit.toFixed(0)} (writerQueryKeyNorm).`,
  );
  say(
    costs.otherSource < limits.source && costs.noSource < limits.source,
    `The decoder does not use its encoder: another text's source costs ${nats(costs.otherSource)}, no source ${nats(costs.noSource)}; no memory can reach the output.`,
  );
  return { verdict, sentences };
}

function verdictOf({ costs, memory }: Diagnosis): Verdict {
  if (costs.shuffled >= limits.shuffled) return "used";
  return memory.at(-1)!.textShare < limits.textShare ? "collapsed" : "ignored";
}
