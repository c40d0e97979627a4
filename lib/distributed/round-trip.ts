/** One sum of two ranks, in processes of their own: whether Gloo works here at all. */
import { applyOperator, Tensor } from "../engine/tensor.ts";
import { join } from "./index.ts";

/** In a process that has a rank's variables: prints the sum of all ranks' numbers, each its rank and 1. */
export async function roundTrip(): Promise<void> {
  await using group = await join({ startLimit: 30, limit: 30 });
  using own = Tensor.from(Float32Array.of(group.rank + 1), [1]);
  using sum = applyOperator("aten::clone", group.allReduce(own));
  process.stdout.write(String(await group.guard("a sum of two numbers", sum.item())));
}
