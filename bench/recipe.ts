/**
 * What the recipe costs: training tokens a second in the paper's plain form with AdamW, and with the recipe's levers
 * added one after the other, of which Muon is the last.
 *   npm run bench -- recipe [--models demo,wider | wiki,base-32,base-128,base-decoder-64] [--device cpu] [--lanes N]
 *     [--threads N] [--rounds 3] [--windows 20] [--target 0.95] [--name recipe]
 * Every form is measured once a round, so that a machine that slows down does so for all. Target: the whole recipe
 * reaches 0.95 of the plain form's tokens.
 */
import { Memformer, trimMemory, type DeviceName, type ModelOptions } from "../lib/index.ts";
import { optionsOf } from "../lib/experiments/worth/variants.ts";
import { trainedModels } from "./support/configurations.ts";
import { timePipeline } from "./support/pipeline.ts";
import { choice, flag, median, report, words, type Row } from "./support/report.ts";
import { disposeWindow, randomSegments, resident } from "./support/window.ts";

/** From the plain form to the recipe. */
const forms = ["plain", "zero+slow", "qk", "wqk", "normed", "limited", "muon"] as const;

export async function recipeCost(flags: readonly string[]): Promise<boolean> {
  const names = choice(flags, "models", Object.keys(trainedModels), ["demo", "wider"]),
    device = (words(flags, "device", ["cpu"])[0] ?? "cpu") as DeviceName,
    threads = flag(flags, "threads", 0),
    rounds = flag(flags, "rounds", 3),
    windows = flag(flags, "windows", 20),
    target = flag(flags, "target", 0.95);
  const rows: Row[] = [];
  let met = true;
  for (const name of names) {
    const { model, horizon, lanes: usual } = trainedModels[name]!,
      lanes = flag(flags, "lanes", usual),
      rates = forms.map((): number[] => []);
    for (let round = 0; round < rounds; round++)
      for (const [i] of forms.entries()) {
        const { model: options, train } = optionsOf(forms.slice(0, i + 1).join("+"));
        rates[i]!.push(
          await tokensPerSecond(
            { ...model, ...options },
            { lanes, horizon, windows, device, threads },
            train.optimizer,
          ),
        );
      }
    const [plain = [], ...others] = rates;
    const against = (given: readonly number[]): number => median(given.map((rate, round) => rate / plain[round]!));
    rates.forEach((given, i) => {
      const ratio = against(given);
      const row = {
        model: name,
        lanes,
        horizon,
        form: i === 0 ? forms[0] : `+ ${forms[i]!}`,
        "tok/s": Math.round(median(given)),
        "ms a window": ((1000 * lanes * horizon * (model.segmentLength ?? 128)) / median(given)).toFixed(2),
        "of the plain form": ratio.toFixed(3),
        rounds: given.map((rate) => Math.round(rate)).join(", "),
      };
      rows.push(row);
      console.log(Object.values(row).join(" | "));
    });
    met &&= against(others.at(-1) ?? []) >= target;
  }
  const [file = "recipe"] = words(flags, "name", ["recipe"]);
  report(file, "Training in the plain form with AdamW, and with the recipe's levers added one after the other", rows, {
    windows,
    "rounds of": rounds,
  });
  return met;
}

interface Plan {
  readonly lanes: number;
  readonly horizon: number;
  readonly windows: number;
  readonly device: DeviceName;
  readonly threads: number;
}

async function tokensPerSecond(
  options: ModelOptions,
  { lanes, horizon, windows, device, threads }: Plan,
  optimizer: "adamw" | "muon" | undefined,
): Promise<number> {
  const model = await Memformer.create({
    ...options,
    device,
    ...(threads > 0 && { threads }),
    precision: device.startsWith("cuda") ? "bfloat16" : "float32",
  });
  const window = resident(model, randomSegments(model, lanes, horizon, false));
  const { seconds } = await timePipeline(model, window, {
    method: "mrbp",
    warmup: 5,
    windows,
    muon: optimizer === "muon",
  });
  const { segmentLength } = model.config;
  disposeWindow(window);
  await model.dispose();
  trimMemory();
  return (lanes * segmentLength * horizon) / median(seconds);
}
