/** AdamW over a model's parameters; native/engine/adamw.h has the update. */
import { z } from "zod";
import type { TensorEntry } from "../checkpoint/safetensors.ts";
import { MemformerError } from "../errors.ts";
import { engineEntry, masterType } from "../model/weights-files.ts";
import type { Group } from "../distributed/group.ts";
import type { OptimizerHandle } from "../native/addon.ts";
import { guarded, nextCall } from "../native/calls.ts";
import { checkOptions, optionSchema } from "../options.ts";
import type { TrainableModel } from "../model/recurrence.ts";
import { Tensor, type DType } from "../engine/tensor.ts";
import { threadBound } from "../engine/thread-bound.ts";

/** Rates of decay and the epsilon of {@link AdamW}. */
export interface AdamWOptions {
  /** Default 0.9. */
  readonly beta1?: number;
  /** Default 0.95. */
  readonly beta2?: number;
  /** Default 1e-8. */
  readonly eps?: number;
  /** On matrices only; never on norms, biases, embeddings and v_bias. Default 0.1. */
  readonly weightDecay?: number;
  /**
   * Whether the layers' matrices are moved by Muon (momentum 0.95, orthogonalized, at the size of AdamW's update, so
   * that one rate serves both) and AdamW has the rest: embeddings, output projection, norms, biases, slots. Their
   * momentum stands in `.exp_avg`. Default false.
   */
  readonly muon?: boolean;
}

const optimizerSchema = optionSchema<AdamWOptions>({
  beta1: z.number().min(0).lt(1).optional(),
  beta2: z.number().min(0).lt(1).optional(),
  eps: z.number().positive().optional(),
  weightDecay: z.number().nonnegative().optional(),
  muon: z.boolean().optional(),
});

interface OptimizerPart {
  readonly prefix: string;
  readonly handle: OptimizerHandle;
}

/**
 * AdamW over all parameters of a model; matrices decay, nothing else does. With a `group` its ranks share out the
 * moments (ZeRO-1, Rajbhandari et al. 2020): each keeps those of its share of the parameters, updates these, and gets
 * the others' updated parameters. Every rank then makes the same calls of {@link step} and {@link tensor}, with the
 * same gradients.
 */
export class AdamW implements Disposable {
  /** @internal */
  readonly threadBound = threadBound;
  /** One per part of the parameters that the engine holds together. */
  #parts: readonly OptimizerPart[] | undefined;
  readonly #model: TrainableModel;
  /** The ranks that share out its moments; undefined: all are here. */
  readonly group: Group | undefined;

  constructor(
    model: TrainableModel,
    options: AdamWOptions = {},
    { group }: { readonly group?: Group | undefined } = {},
  ) {
    checkOptions(optimizerSchema, options, "AdamW");
    const { beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weightDecay = 0.1, muon = false } = options;
    this.#model = model;
    this.group = group;
    this.#parts = model.held.map(({ prefix, handle }) => ({
      prefix,
      handle: guarded((addon) =>
        addon.createAdamW(handle, beta1, beta2, eps, weightDecay, muon, group?.handle ?? null),
      ),
    }));
  }

  /** @internal */
  get parts(): readonly OptimizerPart[] {
    if (this.#parts === undefined) throw new MemformerError("DISPOSED", "this optimizer has been disposed of");
    return this.#parts;
  }

  /**
   * One update at learning rate `learningRate`, after which the gradients are dropped; none is made when `norm` is not
   * finite. `norm`, of all gradients as they are, from {@link Memformer.clipGradients}; with `clip` above 0 they are
   * scaled to a norm of at most that.
   */
  step(learningRate: number, norm: Tensor, clip = 0): void {
    if (!(learningRate >= 0 && learningRate < Infinity))
      throw new MemformerError("CONFIG", `learningRate must be a number of at least 0, got ${String(learningRate)}`);
    if (!(clip >= 0)) throw new MemformerError("CONFIG", `clip must be at least 0, got ${String(clip)}`);
    this.#model.revise();
    for (const { handle } of this.parts) {
      guarded((addon) => {
        addon.adamwStep(nextCall(), handle, learningRate, norm.handle, clip);
      });
    }
  }

  /**
   * Names and shapes of what it carries: `<parameter>.exp_avg`, `.exp_avg_sq`, `.step`. In float16 also `loss_scale`,
   * which gradients are multiplied by on their way so that small ones are not lost, and `good_steps`, steps since it
   * changed: it doubles after 2,000, and halves when gradients are not finite.
   */
  get tensors(): readonly { name: string; shape: readonly number[]; whole?: boolean }[] {
    const scaled = this.#model.config.precision === "float16";
    return [
      ...this.#model.parameters.flatMap(({ name, shape }) => [
        { name: `${name}.exp_avg`, shape },
        { name: `${name}.exp_avg_sq`, shape },
        { name: `${name}.step`, shape: [] },
      ]),
      ...(scaled
        ? [
            { name: "loss_scale", shape: [] },
            { name: "good_steps", shape: [], whole: true },
          ]
        : []),
    ];
  }

  /** What it carries, as entries of a safetensors file; `read`: reads one of them otherwise than by {@link tensor}. */
  entries(read?: (name: string) => Promise<Uint8Array>): TensorEntry[] {
    const dtypes: Record<string, DType> = { step: "float32", loss_scale: "float32", good_steps: "int32" };
    return this.tensors.map(({ name, shape }) => {
      const dtype = dtypes[name.split(".").at(-1)!] ?? masterType(this.#model.config);
      if (read !== undefined) return { name, dtype, shape, read: async () => read(name) };
      return engineEntry(name, dtype, shape, () => this.tensor(name));
    });
  }

  /**
   * One of them, copied when it is read; with a group of all ranks' numbers. Throws MemformerError CONFIG for an
   * unknown name, once it is read.
   */
  tensor(name: string): Tensor {
    const [handle, own] = this.#partOf(name);
    return new Tensor(guarded((addon) => addon.adamwState(nextCall(), handle, own))[0]!);
  }

  /** Copies one of them back. */
  assign(name: string, value: Tensor): void {
    const [handle, own] = this.#partOf(name);
    guarded((addon) => {
      addon.adamwAssign(nextCall(), handle, own, value.handle);
    });
  }

  /** Frees its moments once the calls made before have run; the model stays. Idempotent. */
  dispose(): void {
    const parts = this.#parts ?? [];
    this.#parts = undefined;
    for (const { handle } of parts) {
      guarded((addon) => {
        addon.dropAdamW(handle);
      });
    }
  }

  /** The part that holds a tensor, and its name there. */
  #partOf(name: string): [OptimizerHandle, string] {
    const part = this.parts.find(({ prefix }) => name.startsWith(prefix));
    if (part === undefined) throw new MemformerError("CONFIG", `the optimizer has no state '${name}'`);
    return [part.handle, name.slice(part.prefix.length)];
  }

  /** For `using`: as `dispose`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
