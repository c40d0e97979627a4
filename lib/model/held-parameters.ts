/** Parameters that the engine holds, with their gradients: what is common to models of either kind. */
import { MemformerError } from "../errors.ts";
import { Tensor } from "../engine/tensor.ts";
import { threadBound } from "../engine/thread-bound.ts";
import type { ModelHandle } from "../native/addon.ts";
import { guarded, nextCall, waited } from "../native/calls.ts";
import type { Device } from "../native/cuda.ts";
import type { Parameter } from "./parameter.ts";
import type { HeldPart } from "./recurrence.ts";
import type { StatePart } from "./state.ts";
import { weightsHash } from "./weights-hash.ts";

/** What the engine tells of a model it has made. */
export interface MadeModel {
  readonly model: ModelHandle;
  readonly stateLayout: readonly StatePart[];
  readonly parameters: readonly Parameter[];
}

/** The parameters of a model by name. Free them with `await using` or `dispose()`. */
export class HeldParameters implements AsyncDisposable {
  /** Where it computes. */
  readonly device: Device;
  /** In the order of their making. */
  readonly parameters: readonly Parameter[];
  /** Number of learned numbers. */
  readonly parameterCount: number;
  /** @internal */
  readonly threadBound = threadBound;
  #handle: ModelHandle | undefined;
  #revision = 0;
  #weightsHash: Promise<string> | undefined;
  #lent = false; // whether somebody holds a parameter, and may change it unseen

  protected constructor(device: Device, made: Pick<MadeModel, "model" | "parameters">) {
    this.device = device;
    this.#handle = made.model;
    this.parameters = made.parameters;
    this.parameterCount = made.parameters.reduce(
      (sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1),
      0,
    );
  }

  /** @internal Tells this model's weights from another's of the same shape; computed once, until the weights change. */
  async weightsHash(): Promise<string> {
    if (this.#weightsHash !== undefined) return this.#weightsHash;
    const computed = weightsHash(this);
    if (!this.#lent) this.#weightsHash = computed;
    computed.catch(() => {
      this.#weightsHash = undefined;
    });
    return computed;
  }

  /**
   * A parameter's values, shared with the model. Throws MemformerError CONFIG at the read if there is none of that
   * name.
   */
  parameter(name: string): Tensor {
    this.lend();
    return this.ownParameter(name);
  }

  /** The same for reading alone: the caller changes nothing, and disposes of the handle. */
  ownParameter(name: string): Tensor {
    return new Tensor(guarded((addon) => addon.parameter(nextCall(), this.handle, name))[0]!);
  }

  /** @internal For who may change them unseen from now on: their hash is no longer remembered. */
  protected lend(): void {
    this.#lent = true;
    this.#weightsHash = undefined;
  }

  /** A copy of a parameter's gradient so far, zeros where nothing reached it. */
  gradient(name: string): Tensor {
    return new Tensor(guarded((addon) => addon.parameterGradient(nextCall(), this.handle, name))[0]!);
  }

  /** Copies `value` into a parameter. */
  assign(name: string, value: Tensor): void {
    this.revise();
    guarded((addon) => {
      addon.assign(nextCall(), this.handle, name, value.handle);
    });
  }

  /** Drops the gradients gathered so far. */
  zeroGradients(): void {
    this.revise();
    guarded((addon) => {
      addon.zeroGradients(nextCall(), this.handle);
    });
  }

  /**
   * The L2 norm over all gradients, (); they are scaled so that it is at most `most` (0: never). `whole`: the norm to
   * go by instead, of a larger model that this one is a part of.
   */
  clipGradients(most: number, whole?: Tensor): Tensor {
    if (!(most >= 0)) throw new MemformerError("CONFIG", `the norm to clip to must be at least 0, got ${String(most)}`);
    if (most > 0) this.revise();
    return new Tensor(guarded((addon) => addon.clipGradients(nextCall(), this.handle, most, whole?.handle))[0]!);
  }

  /** Changes with every call that changes weights, or gradients other than by adding to them. */
  get revision(): number {
    return this.#revision;
  }

  /** For what changes weights from outside, an optimizer: {@link revision} changes. */
  revise(): void {
    this.#revision += 1;
    this.#weightsHash = undefined;
  }

  /** @internal */
  get handle(): ModelHandle {
    if (this.#handle === undefined) throw new MemformerError("DISPOSED", "this model has been disposed of");
    return this.#handle;
  }

  /** @internal */
  get held(): readonly HeldPart[] {
    return [{ prefix: "", handle: this.handle }];
  }

  /** Whether the model has been disposed of. */
  get disposed(): boolean {
    return this.#handle === undefined;
  }

  /** Frees the model once the calls made before have run. Idempotent. */
  async dispose(): Promise<void> {
    const handle = this.#handle;
    if (handle === undefined) return;
    this.#handle = undefined;
    guarded((addon) => {
      addon.dropModel(handle);
    });
    await waited((addon) => addon.read(nextCall()));
  }

  /** For `await using`: as `dispose`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}
