/**
 * The bandwidth that those of our kernels reach which move bytes rather than multiply: what each must read and write in
 * a window, counted from the shapes, over its time in the profile that `npm run bench -- profile` has left in
 * bench/results. Needs no GPU.
 *   [--configuration wiki] [--batches 16,64] [--peak 3.35e12]: bytes a second of the memory; that of an H100 SXM
 */
import { existsSync, readFileSync } from "node:fs";
import { Memformer } from "../lib/index.ts";
import { configurations } from "./support/configurations.ts";
import { choice, flag, report, type Row } from "./support/report.ts";

interface Profile {
  readonly measuredOn: Row;
  readonly rows: readonly Row[];
}

export async function bandwidth(flags: readonly string[]): Promise<boolean> {
  const [name] = choice(flags, "configuration", Object.keys(configurations), ["wiki"]),
    peak = flag(flags, "peak", 3.35e12);
  const sizes = Array.from({ length: 1024 }, (_, i) => String(i + 1)),
    batches = choice(flags, "batches", sizes, ["16", "64"]);
  const rows: Row[] = [],
    facts: Record<string, string | number> = { "peak TB/s": peak / 1e12 };
  for (const batch of batches) {
    const file = new URL(`results/profile-${name}-${batch}.json`, import.meta.url);
    if (!existsSync(file))
      throw new Error(
        `${file.pathname} is not there: bench -- profile --configuration ${name} --batch ${batch} --top 100 writes it`,
      );
    const { measuredOn, rows: kernels } = JSON.parse(readFileSync(file, "utf8")) as Profile;
    Object.assign(facts, measuredOn);
    for (const { what, kernel, each, numbers } of await works(
      name!,
      Number(batch),
      Number(measuredOn["segments a step"]),
    )) {
      const found = kernels.filter((row) => kernel.test(String(row["kernel"])));
      const us = found.reduce((sum, row) => sum + Number(row["us a window"]), 0),
        rate = (each * numbers) / (us / 1e6);
      if (found.length === 0)
        throw new Error(
          `the profile of ${name} at batch ${batch} has no kernel like ${kernel}: bench -- profile takes --top N`,
        );
      rows.push({
        configuration: name!,
        batch,
        what,
        "bytes a number": each,
        "MB a window": Math.round((each * numbers) / 1e6),
        "us a window": us,
        "TB/s": (rate / 1e12).toFixed(2),
        "of the peak": `${((100 * rate) / peak).toFixed(0)} %`,
      });
    }
  }
  for (const key of ["kernels' ms", "window's ms", "GPU busy", "kernels", "segments a step", "rows a step"])
    delete facts[key]; // of the last alone
  report(`bandwidth-${name}`, "Bandwidth of kernels that move bytes, from their profiles", rows, facts);
  return true;
}

/**
 * Of a window of bfloat16, S segments of which MRBP takes G back together. The critical path goes forward over all, and
 * over those before its last step once more; all else happens once. A residual number is float32 and a branch's
 * bfloat16, 4 and 2 bytes.
 */
async function works(
  name: string,
  B: number,
  G: number,
): Promise<readonly { what: string; kernel: RegExp; each: number; numbers: number }[]> {
  const { horizon: S, ...options } = configurations[name]!;
  await using model = await Memformer.create({ ...options, device: "cpu" });
  const { segmentLength: T, width: D, memorySlots: M, vocabulary: V, encoderLayers, decoderLayers } = model.config;
  const tokens = B * T * D,
    slots = B * M * D,
    forward = 2 * S - G;
  const branches = (segments: number): number => tokens * 3 * (segments * encoderLayers + S * decoderLayers); // a layer has three
  const attentions = (segments: number): number => tokens * (segments * encoderLayers + 2 * S * decoderLayers); // beside those over slots
  return [
    // x, branch; sum, normed
    { what: "residual sum + LayerNorm, forward", kernel: /add_norm_forward/, each: 12, numbers: branches(forward) },
    // dL/dsum, dL/dnormed, sum; dL/dx, dL/dbranch
    { what: "residual sum + LayerNorm, back", kernel: /add_norm_backward/, each: 16, numbers: branches(S) },
    // query, key, own, y over tokens; y
    { what: "a slot with itself, forward", kernel: /slot_mix/, each: 14, numbers: slots * forward },
    // dL/dy, y, query, key, own; dL/dquery, dL/dkey, dL/down, dL/dy narrow. No loss hangs on what the last segment
    // writes.
    { what: "a slot with itself, back", kernel: /slot_self_backward/, each: 26, numbers: slots * (S - 1) },
    // a logit; its gradient in its place
    { what: "cross-entropy, loss and gradient", kernel: /cross_entropy_kernel/, each: 4, numbers: S * B * T * V },
    // q, k, v; y
    { what: "short attention, forward", kernel: /attention_forward_kernel/, each: 8, numbers: attentions(forward) },
    // q, k, v, dL/dy; dL/dq, dL/dk, dL/dv
    { what: "short attention, back", kernel: /attention_backward_kernel/, each: 14, numbers: attentions(S) },
    // parameter, gradient, both moments, read and written; working copy
    { what: "AdamW", kernel: /adamw_kernel/, each: 34, numbers: model.parameterCount },
    { what: "gradient norm", kernel: /square_sum/, each: 4, numbers: model.parameterCount },
  ];
}
