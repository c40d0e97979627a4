/** A training window's gradient on a tiny model, and what its parameters are. */
import { mrbp, tidy, type Memformer, type Tensor } from "../../lib/index.ts";
import { randomWindow } from "./models.ts";

/** Every parameter by name, as numbers. */
export async function parameterValues(model: Memformer): Promise<Map<string, Float64Array>> {
  const all = new Map<string, Float64Array>();
  for (const { name } of model.parameters) {
    using tensor = model.parameter(name);
    all.set(name, Float64Array.from((await tensor.data()) as Float64Array));
  }
  return all;
}

/** Adds the gradient of a random window of four rows to the model's. */
export function addGradient(model: Memformer, seed: number): void {
  const result = tidy(() =>
    mrbp(
      model,
      randomWindow(model, { seed }).map((segment) => model.upload(segment)),
      model.initialState(4),
      { seed },
    ),
  );
  for (const tensor of Object.values(result).flat() as Tensor[]) tensor.dispose();
}
