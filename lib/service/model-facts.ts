/** What clients are told of the model. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import type { Memformer } from "../model/memformer.ts";
import type { ModelFacts } from "./service-instance.ts";

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

/** Facts of a model under a name. */
export async function modelFacts(model: Memformer, name: string, tokenizer: string): Promise<ModelFacts> {
  const { architecture, vocabulary, segmentLength, memorySlots } = model.config;
  return {
    name,
    architecture,
    parameters: model.parameterCount,
    vocabulary,
    segmentLength,
    memorySlots,
    tokenizer,
    device: model.device,
    fingerprint: await fingerprintOf(model),
  };
}

/** Of the weights and of this version: what the same seed draws may differ only where this does. */
export async function fingerprintOf(model: Memformer): Promise<string> {
  const hash = createHash("sha256")
    .update(await model.weightsHash())
    .update(version)
    .digest("hex");
  return `mf_${hash.slice(0, 16)}`;
}
