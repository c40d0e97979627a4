/**
 * Tokens scored a second, without ablations and with all four:
 * `npm run bench -- evaluate [--tokens 400000] [--lanes 16,64] [--configurations wiki]`. On a GPU the configurations of
 * `bench -- cuda` in bfloat16, else the demo's model. The text is random documents with an encyclopedia's lengths; one
 * pass comes before those that are timed. Target on a GPU: wiki at 250,000 tokens a second with four ablations; the
 * exit code is 1 below it.   [--rounds 3]
 */
import { ABLATIONS, evaluate, evaluationPass, Memformer, type Ablation } from "../lib/index.ts";
import { configurations, cpuConfigurations, type Configuration } from "./support/configurations.ts";
import { randomDocuments } from "./support/documents.ts";
import { choice, flag, median, report, type Row } from "./support/report.ts";

const target = 250_000;

const onCpu: Readonly<Record<string, Configuration>> = { demo: cpuConfigurations.demo };

export async function evaluation(flags: readonly string[]): Promise<boolean> {
  await using any = await Memformer.create({ preset: "tiny" });
  const gpu = any.device !== "cpu",
    known = gpu ? configurations : onCpu;
  const tokens = flag(flags, "tokens", gpu ? 400_000 : 40_000),
    rounds = flag(flags, "rounds", 3);
  const numbers = Array.from({ length: 1024 }, (_, i) => String(i + 1));
  const lanes = choice(flags, "lanes", numbers, gpu ? ["16", "64"] : ["16"]).map(Number),
    rows: Row[] = [];
  let best = 0;
  for (const name of choice(flags, "configurations", Object.keys(known), gpu ? ["wiki"] : Object.keys(known))) {
    const { horizon: _, ...options } = known[name]!;
    await using model = await Memformer.create({ ...options, precision: gpu ? "bfloat16" : "float32" });
    const { segmentLength, vocabulary, bos } = model.config,
      source = randomDocuments({ tokens, vocabulary, bos });
    for (const count of lanes) {
      const pass = async (ablations: readonly Ablation[]): Promise<number> => {
        const stream = evaluationPass(source, { lanes: count, segmentLength, bos, longestFirst: true });
        return (await evaluate(model, stream, { ablations })).seconds;
      };
      const rates: string[] = [];
      for (const ablations of [[], ABLATIONS]) {
        await pass(ablations);
        const seconds: number[] = [];
        for (let round = 0; round < rounds; round++) seconds.push(await pass(ablations));
        const rate = tokens / median(seconds);
        if (name === "wiki" && ablations.length > 0) best = Math.max(best, rate);
        rates.push(Math.round(rate).toString());
      }
      rows.push({
        configuration: name,
        device: model.device,
        documents: source.documents,
        tokens,
        lanes: count,
        "segments a step": model.scoringSegmentsPerStep(count, segmentLength),
        "tok/s": rates[0]!,
        "tok/s, four ablations": rates[1]!,
      });
    }
    const { refusal } = await model.capturedGraphs();
    if (refusal !== "") console.log(`${name}: steps were not recorded: ${refusal}`);
  }
  report(gpu ? "evaluate-gpu" : "evaluate", "Tokens scored a second", rows, {
    precision: gpu ? "bfloat16" : "float32",
  });
  return !gpu || best === 0 || best >= target;
}
