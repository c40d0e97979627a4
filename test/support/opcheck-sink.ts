/** What operators do that add a bias first: their arguments begin with x, bias, bias_sink. */
import { expect } from "chai";
import { errorOf } from "./opcheck-compare.ts";
import { download, type Numbers, numbers, upload } from "./opcheck-numbers.ts";
import { gradients } from "./opcheck-run.ts";
import { type Argument, type Call, isNumbers } from "./opcheck-spec.ts";

/** The gradient of the bias is added to what its sink holds, to `bound`, and is not sent back; that of x is the same to the bit. */
export async function expectBiasSink(call: Call, args: readonly Argument[], cotangents: readonly Numbers[], bound: number): Promise<void> {
  const bias = args[1]!;
  if (!isNumbers(bias)) throw new TypeError("the second argument must be a bias");
  const sent = await gradients(call, args, cotangents);
  const held = numbers(bias.shape, (i) => i % 5), sink = upload(held, "float64");
  const then = await gradients((...given) => call(...given.with(2, sink)), args, cotangents);
  expect(then[0]!.data).to.deep.equal(sent[0]!.data);
  expect(then[1]!.data.every((value) => value === 0)).to.be.true;
  const expected = held.data.map((value, c) => value + sent[1]!.data[c]!);
  expect(errorOf((await download(sink)).data, expected)).to.be.below(bound);
  sink.dispose();
}
