import { expect } from "chai";
import { AdamW, tidy, type Memformer } from "../lib/index.ts";
import { describeOnGpu, GPU } from "./support/gpu.ts";
import { perturb, tinyModel } from "./support/models.ts";
import { addGradient, parameterValues } from "./support/training.ts";

function step(model: Memformer, optimizer: AdamW, seed: number): void {
  addGradient(model, seed);
  tidy(() => {
    optimizer.step(1e-2 / seed, model.clipGradients(0), 0.5);
  });
}

describeOnGpu("Muon on the GPU", () => {
  for (const precision of ["float64", "bfloat16", "float16"] as const) {
    it(`moves the parameters as on the CPU: ${precision}`, async () => {
      const options = { position: "t5", width: 32, heads: 2 } as const;
      await using cpu = await tinyModel({ ...options, precision: "float64", device: "cpu" });
      await using gpu = await tinyModel({ ...options, precision, device: GPU });
      for (const model of [cpu, gpu]) await perturb(model, 0.05);
      using there = new AdamW(cpu, { muon: true }),
        here = new AdamW(gpu, { muon: true });
      const started = await parameterValues(cpu);
      for (const seed of [1, 2, 3]) {
        step(cpu, there, seed);
        step(gpu, here, seed);
      }
      const wanted = await parameterValues(cpu),
        found = await parameterValues(gpu);
      for (const { name } of cpu.parameters) {
        const a = wanted.get(name)!,
          b = found.get(name)!;
        const distance = (x: ArrayLike<number>, y: ArrayLike<number>): number =>
          Math.hypot(...Array.from(x, (value, k) => value - y[k]!));
        const moved = distance(a, started.get(name)!);
        // Orthogonalizing makes as much of what rounding adds to a small direction as of a large one: in two bytes only
        // the size of the update is the same.
        if (precision === "float64") expect(distance(a, b), name).to.be.at.most(1e-6 * moved + 1e-12);
        else if (/(qkv|up|down)\.weight$/.test(name))
          expect(distance(b, started.get(name)!), name).to.be.within(0.7 * moved, 1.3 * moved);
      }
    });
  }
});
