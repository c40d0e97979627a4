/**
 * The harness of every operator's spec: plain loops prove its float64 results, differences prove its gradient, and
 * together they prove the narrow dtypes; on the way it meets strides, empty tensors, dirty memory and misuse.
 */
import { expect } from "chai";
import { memoryUsage, callOperator, synchronize } from "../../lib/index.ts";
import { checkPrecision, checkReference, checkRepeats, checkStrided } from "./opcheck-forward.ts";
import { checkGradient, checkGradientLayout, checkGradientPrecision, cotangentsFor } from "./opcheck-gradient.ts";
import { checkMisuse } from "./opcheck-misuse.ts";
import { Draw } from "./opcheck-numbers.ts";
import { gradients, run } from "./opcheck-run.ts";
import {
  type Argument,
  type Call,
  type OperatorSpec,
  type RegisteredSpec,
  type SpecCase,
  titleOf,
  type UploadedAll,
} from "./opcheck-spec.ts";

/** A check of one case by its sentence; it returns complaints. */
export type Checks = Record<string, () => Promise<string[]>>;

/** Every check of one case, for the operator or for a stand-in. */
export function caseChecks<Case extends SpecCase, Args extends readonly Argument[]>(
  spec: OperatorSpec<Case, Args>,
  shape: Case,
  call: Call = operator(spec),
): Checks {
  const draw = new Draw(spec.cases.indexOf(shape), 1),
    args = spec.inputs(shape, draw);
  const cotangents = cotangentsFor(spec.reference(...args), draw);
  return {
    "equals plain loops": () => checkReference(spec, args, call),
    "gives the same bits again, whatever freed memory held": () => checkRepeats(args, call),
    "takes inputs that are not contiguous": () => checkStrided(args, call),
    "gradient matches finite differences": () => checkGradient(args, cotangents, call),
    "gradient is the same again, and from inputs that are not contiguous": () =>
      checkGradientLayout(args, cotangents, call),
    "is as accurate as composed ATen in float32": () => checkPrecision(spec, args, call, "float32"),
    "is as accurate as composed ATen in bfloat16": () => checkPrecision(spec, args, call, "bfloat16"),
    "gradient is as accurate as composed ATen in float32": () =>
      checkGradientPrecision(spec, args, cotangents, call, "float32"),
    "gradient is as accurate as composed ATen in bfloat16": () =>
      checkGradientPrecision(spec, args, cotangents, call, "bfloat16"),
    "does not leak": async () => {
      const use = async (): Promise<number> => {
        await run(call, args);
        await gradients(call, args, cotangents);
        await synchronize();
        return memoryUsage().hostBytes;
      };
      // The collector may free tensors of other tests meanwhile, so that a use that keeps memory looks as if it kept
      // none.
      let before = await use(),
        most = 0;
      for (let i = 0; i < 3; i++) {
        const after = await use();
        [most, before] = [Math.max(most, after - before), after];
      }
      return most > 0 ? [`${most} bytes stay behind`] : [];
    },
  };
}

/** Every misuse of the spec. */
export function misuseChecks<Case extends SpecCase, Args extends readonly Argument[]>(
  spec: OperatorSpec<Case, Args>,
  call: Call = operator(spec),
): Checks {
  const args = spec.inputs(spec.cases[0]!, new Draw(0));
  return Object.fromEntries(spec.misuses.map((misuse) => [misuse.what, () => checkMisuse(spec, misuse, args, call)]));
}

/** Every spec whose file has been read, for the checks on a GPU. */
export const registered: RegisteredSpec[] = [];

/** Declares the tests of a spec, and `more`; nothing where no test runner is, so that any program can read specs. */
export function opcheck<Case extends SpecCase, Args extends readonly Argument[]>(
  spec: OperatorSpec<Case, Args>,
  more?: () => void,
): void {
  registered.push(spec);
  if (!("describe" in globalThis)) return;
  describe(spec.name, () => {
    for (const shape of spec.cases)
      describe(titleOf(shape), () => {
        declare(caseChecks(spec, shape));
      });
    describe("refuses", () => {
      declare(misuseChecks(spec));
    });
    more?.();
  });
}

function declare(checks: Checks): void {
  for (const [sentence, check] of Object.entries(checks)) {
    it(sentence, async () => {
      expect(await check()).to.deep.equal([]);
    });
  }
}

/** The operator of a spec, as its own `call` calls it where it has one. */
export function operator<Args extends readonly Argument[]>(
  spec: Pick<OperatorSpec<never, Args>, "name" | "call">,
): Call {
  return (...args) => spec.call?.(...(args as unknown as UploadedAll<Args>)) ?? callOperator(spec.name, ...args);
}
