/**
 * The backward pass alone, with nothing of LibTorch's beside it on the GPU: so tools that break on its kernels can look
 * at ours.
 */
import { expect } from "chai";
import { createRequire } from "node:module";
import type { slotAttention as Spec } from "../native/ops/slot_attention/slot_attention.spec.ts";
import { callOperator, tidy, type Tensor } from "../lib/index.ts";
import { meanErrorOf } from "./support/opcheck-compare.ts";
import { plainCall, twicePlain } from "./support/opcheck-forward.ts";
import { download, Draw, EPSILON, type Numbers, numbers, rounded, upload } from "./support/opcheck-numbers.ts";
import { gradients, roundedAll } from "./support/opcheck-run.ts";
import { describeOnGpu, toGpu } from "./support/gpu.ts";

// As mocha loads it, so that both get the same module.
const load = createRequire(import.meta.url);
const { slotAttention } = load("../native/ops/slot_attention/slot_attention.spec.ts") as { slotAttention: typeof Spec };

/** (B, H, M): the logarithms of the softmaxes' denominators. */
function logSums(
  query: Numbers,
  selfKey: Numbers,
  key: Numbers,
  H: number,
  scale: number,
  lengths: Numbers | null,
): Numbers {
  const [B, M, D] = query.shape as [number, number, number],
    T = key.shape[1]!,
    E = D / H;
  const dot = (b: Numbers, i: number, j: number): number => {
    let sum = 0;
    for (let e = 0; e < E; e++) sum += query.data[i + e]! * b.data[j + e]!;
    return scale * sum;
  };
  return numbers(
    [B, H, M],
    (at) => {
      const m = at % M,
        h = Math.floor(at / M) % H,
        b = Math.floor(at / M / H),
        row = (b * M + m) * D + h * E;
      let sum = Math.exp(dot(selfKey, row, row));
      for (let t = 0; t < (lengths?.data[b] ?? T); t++) sum += Math.exp(dot(key, row, (b * T + t) * D + h * E));
      return Math.log(sum);
    },
    "accumulated",
  );
}

describeOnGpu("slot attention's backward pass on a GPU, after any forward pass [sanitize]", () => {
  const shapes = slotAttention.cases.filter(
    ({ what, masked }) => /^of (such heads|heads that)/.test(what) && masked === undefined,
  );
  for (const shape of shapes)
    for (const dtype of ["bfloat16", "float16"] as const)
      for (const kind of ["floating", "accumulated"] as const) {
        it(`is as accurate as composed ATen ${shape.what}, in ${dtype} beside ${kind === "floating" ? dtype : "float32"}`, async () => {
          const draw = new Draw(11),
            args = roundedAll(slotAttention.inputs(shape, draw), dtype);
          const [query, selfKey, own, key, value, , H, scale, lengths] = args,
            cotangent = rounded(draw.numbers(own.shape), dtype);
          const [y] = slotAttention.reference(...args),
            lse = logSums(query, selfKey, key, H, scale, lengths);
          const sent = tidy((): Tensor[] => {
            const given = [{ ...cotangent, kind }, query, selfKey, { ...own, kind }, key, value, { ...y!, kind }, lse];
            const [grad, q, s, o, k, v, of, sums] = given.map((part) => toGpu(upload(rounded(part, dtype), dtype)));
            const tokens = lengths === null ? null : toGpu(upload(lengths, dtype));
            return callOperator(
              "memformer::slot_attention_backward",
              grad!,
              q!,
              s!,
              o!,
              k!,
              v!,
              null,
              of!,
              sums!,
              H,
              scale,
              tokens,
            );
          });
          const exact = await gradients((...given) => callOperator(slotAttention.name, ...given), args, [cotangent]);
          const plain = await gradients(plainCall(slotAttention), args, [cotangent], { dtype });
          for (const [i, tensor] of sent.entries()) {
            const found = await download(tensor),
              { shape: size, data } = exact[i]!;
            expect(found.dtype, `gradient ${i}`).to.equal(i === 2 && kind === "accumulated" ? "float32" : dtype);
            const allowed =
              found.dtype === "float32"
                ? 16 * EPSILON.float32
                : twicePlain(plain[i]!, { shape: size, data, kind: "floating" }, dtype);
            expect(meanErrorOf(found.data, data), `gradient ${i}`).to.be.at.most(allowed);
            tensor.dispose();
          }
        });
      }
});
