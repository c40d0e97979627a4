/** Checks of operators that add gradients to sinks instead of returning them. */
import { expect } from "chai";
import { errorOf } from "./opcheck-compare.ts";
import { download, type Numbers, numbers, upload } from "./opcheck-numbers.ts";
import { gradients, isDifferentiable } from "./opcheck-run.ts";
import type { Argument, Call } from "./opcheck-spec.ts";

/**
 * Expects the gradient of each argument in `sinks` to be added to the sink passed at `place`, within `bound`, and not
 * to be returned. Gradients of the other arguments must be the same to the bit.
 */
export async function expectSinks(
  call: Call,
  args: readonly Argument[],
  cotangents: readonly (Numbers | null)[],
  sinks: readonly { readonly of: number; readonly place: number }[],
  bound: number,
): Promise<void> {
  const sent = await gradients(call, args, cotangents);
  const held = sinks.map(({ of }, n) => numbers((args[of] as Numbers).shape, (i) => (i + n) % 5)),
    uploaded = held.map((value) => upload(value, "float64"));
  const then = await gradients(
    (...given) => call(...given.map((value, i) => uploaded[sinks.findIndex(({ place }) => place === i)] ?? value)),
    args,
    cotangents,
  );
  const differentiable = args.map((_, i) => i).filter((i) => isDifferentiable(args[i]!));
  for (const [g, argument] of differentiable.entries()) {
    const n = sinks.findIndex(({ of }) => of === argument);
    if (n < 0) expect(then[g]!.data, `gradient of argument ${argument}`).to.deep.equal(sent[g]!.data);
    else {
      expect(
        then[g]!.data.every((value) => value === 0),
        `gradient of argument ${argument}`,
      ).to.be.true;
      const expected = held[n]!.data.map((value, i) => value + sent[g]!.data[i]!);
      expect(errorOf((await download(uploaded[n]!)).data, expected), `sink of argument ${argument}`).to.be.below(bound);
    }
  }
  for (const sink of uploaded) sink.dispose();
}

/** The same for the bias of an operator whose arguments begin with x, bias, bias_sink. */
export async function expectBiasSink(
  call: Call,
  args: readonly Argument[],
  cotangents: readonly Numbers[],
  bound: number,
): Promise<void> {
  await expectSinks(call, args, cotangents, [{ of: 1, place: 2 }], bound);
}
