import { expect } from "chai";
import { AdamW, tidy, Tensor } from "../lib/index.ts";
import { perturb, takeGradients, tinyModel } from "./support/models.ts";
import { addGradient, parameterValues } from "./support/training.ts";

const options = { beta1: 0.8, beta2: 0.95, eps: 1e-6, weightDecay: 0.3, muon: true };

type Matrix = number[][];

const times = (a: Matrix, b: Matrix): Matrix =>
  a.map((row) => b[0]!.map((_, j) => row.reduce((sum, x, k) => sum + x * b[k]![j]!, 0)));
const flipped = (a: Matrix): Matrix => a[0]!.map((_, j) => a.map((row) => row[j]!));
const sum = (...terms: [number, Matrix][]): Matrix =>
  terms[0]![1].map((row, i) => row.map((_, j) => terms.reduce((all, [by, x]) => all + by * x[i]![j]!, 0)));

/** Five Newton-Schulz steps in plain numbers. */
function ortho(u: Matrix): Matrix {
  if (u.length > u[0]!.length) return flipped(ortho(flipped(u)));
  const norm = Math.hypot(...u.flat()) + 1e-7;
  let x = u.map((row) => row.map((value) => value / norm));
  for (let step = 0; step < 5; step++) {
    const square = times(x, flipped(x));
    x = sum([3.4445, x], [1, times(sum([-4.775, square], [2.0315, times(square, square)]), x)]);
  }
  return x;
}

/** How many matrices a parameter of a layer stacks. */
function stacked(name: string): number {
  return /\.qkv\.weight$|gru\.weight/.test(name) ? 3 : /\.key_value\.weight$/.test(name) ? 2 : 1;
}

describe("Muon", () => {
  for (const setting of [
    { position: "t5" },
    { position: "rotary", writer: "gru", tieEmbedding: false },
    { architecture: "decoder" },
  ] as const) {
    it(`orthogonalizes the momentum of the layers' matrices and leaves the rest to AdamW: ${JSON.stringify(setting)}`, async () => {
      await using model = await tinyModel({ ...setting, precision: "float64" }),
        other = await tinyModel({ ...setting, precision: "float64" });
      for (const one of [model, other]) await perturb(one, 0.05);
      using optimizer = new AdamW(model, options),
        adamw = new AdamW(other, { ...options, muon: false });
      const momenta = new Map<string, Float64Array>();
      for (let step = 1; step <= 3; step++) {
        // The same weights in both, so that AdamW's part can be compared.
        for (const { name } of model.parameters) {
          using value = model.parameter(name);
          other.assign(name, value);
        }
        const before = await parameterValues(model);
        addGradient(model, step);
        const gradients = await takeGradients(model);
        addGradient(model, step);
        addGradient(other, step);
        const rate = 1e-2 / step,
          clip = 0.5,
          norm = Math.hypot(...[...gradients.values()].map((gradient) => Math.hypot(...gradient)));
        const factor = Math.min(1, clip / (norm + 1e-6));
        tidy(() => {
          optimizer.step(rate, model.clipGradients(0), clip);
          adamw.step(rate, other.clipGradients(0), clip);
        });
        const found = await parameterValues(model),
          plain = await parameterValues(other);
        let matrices = 0;
        for (const { name, shape, decay } of model.parameters) {
          if (!decay || name === "output.weight") {
            expect([...found.get(name)!], name).to.deep.equal([...plain.get(name)!]);
            continue;
          }
          const w = before.get(name)!,
            g = gradients.get(name)!,
            m = momenta.get(name) ?? new Float64Array(w.length);
          momenta.set(name, m);
          for (let i = 0; i < w.length; i++) m[i] = 0.95 * m[i]! + 0.05 * factor * g[i]!;
          const rows = shape[0]! / stacked(name),
            columns = shape[1]!;
          for (let part = 0; part < stacked(name); part++, matrices++) {
            const at = (i: number, j: number): number => (part * rows + i) * columns + j;
            const u = Array.from({ length: rows }, (_, i) =>
              Array.from({ length: columns }, (__, j) => 0.95 * m[at(i, j)]! + 0.05 * factor * g[at(i, j)]!),
            );
            const direction = ortho(u),
              size = rate * 0.2 * Math.sqrt(Math.max(rows, columns));
            for (let i = 0; i < rows; i++)
              for (let j = 0; j < columns; j++) {
                const wanted = w[at(i, j)]! * (1 - rate * options.weightDecay) - size * direction[i]![j]!;
                expect(found.get(name)![at(i, j)], `${name} ${part} ${i} ${j}`).to.be.closeTo(wanted, 1e-9);
              }
          }
        }
        expect(matrices).to.be.above(10);
      }
    }).timeout(300_000);
  }

  it("changes nothing where the norm is not finite, nor a matrix that no gradient reached", async () => {
    await using model = await tinyModel({ memory: false });
    using optimizer = new AdamW(model, options);
    addGradient(model, 1);
    const before = await parameterValues(model);
    {
      using infinite = Tensor.from(Float64Array.of(NaN), []);
      optimizer.step(1e-2, infinite);
    }
    expect(await parameterValues(model)).to.deep.equal(before);
    addGradient(model, 2);
    tidy(() => {
      optimizer.step(1e-2, model.clipGradients(0), 1);
    });
    const after = await parameterValues(model);
    expect(after.get("writer.value.weight"), "a twin writes what nobody reads").to.deep.equal(
      before.get("writer.value.weight"),
    );
    expect(after.get("encoder.0.feed_forward.up.weight")).not.to.deep.equal(
      before.get("encoder.0.feed_forward.up.weight"),
    );
    expect([...after.values()].every((numbers) => numbers.every(Number.isFinite))).to.equal(true);
  });
});
