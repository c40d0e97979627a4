/** Several models that train as one: in series, beside each other, with one loss and one optimizer. */
import type { Segment } from "../data/segment.ts";
import { applyOperator, tidy, type Tensor } from "../engine/tensor.ts";
import { threadBound } from "../engine/thread-bound.ts";
import { MemformerError } from "../errors.ts";
import type { Device } from "../native/cuda.ts";
import type { ModelDescription, Parameter } from "./parameter.ts";
import type { HeldPart, State, StatePart, Step, StepOptions, TrainableModel } from "./recurrence.ts";
import { uploadTo, type SegmentTensors } from "./segment-tensors.ts";
import { weightsHash } from "./weights-hash.ts";

/** A model that a {@link JointModel} can be made of: {@link Memformer}, {@link ComposedModel}, another JointModel. */
export interface Member extends TrainableModel {
  /** A parameter's values, shared with the model. */
  parameter(name: string): Tensor;
  /** A parameter's gradient so far, zeros where nothing reached it. */
  gradient(name: string): Tensor;
  /** Frees the model once the calls made before have run. */
  dispose(): Promise<void>;
}

/** What a checkpoint's config.json says of a {@link JointModel}: each member's configuration by the member's name. */
export interface JointDescription extends ModelDescription {
  readonly precision: string;
  readonly members: Readonly<Record<string, ModelDescription>>;
}

/**
 * Models that train with one loss. A subclass gives `forward`, which calls its {@link members}; Trainer, AdamW,
 * evaluate and every gradient method take it. Its state is that of all members, a parameter is `<member>.<its name>`,
 * and gradients are clipped by their norm over all of them.
 */
export abstract class JointModel<Members extends Readonly<Record<string, Member>> = Readonly<Record<string, Member>>>
  implements TrainableModel, AsyncDisposable
{
  readonly members: Members;
  readonly config: JointDescription;
  readonly device: Device;
  readonly stateLayout: readonly StatePart[];
  readonly parameters: readonly Parameter[];
  /** @internal */
  readonly threadBound = threadBound;
  readonly #list: readonly (readonly [name: string, member: Member])[];

  /**
   * Throws MemformerError CONFIG for no members, for a name that is not a word, for members of several devices or
   * precisions, of "float16" (its gradients are scaled inside each model), or that share parameters.
   */
  constructor(members: Members) {
    this.members = members;
    this.#list = Object.entries(members);
    this.device = sameOf(this.#list, "device", ({ device }) => device);
    const precision = sameOf(this.#list, "precision", ({ config }) => config.precision ?? "float32");
    if (precision === "float16")
      throw new MemformerError("CONFIG", 'a joint model takes no members of precision "float16"; "bfloat16" does');
    this.config = { precision, members: Object.fromEntries(this.#list.map(([name, { config }]) => [name, config])) };
    this.stateLayout = this.#each((name, { stateLayout }) =>
      stateLayout.map((part) => ({ ...part, name: `${name}.${part.name}` })),
    );
    this.parameters = this.#each((name, { parameters }) =>
      parameters.map((parameter) => ({ ...parameter, name: `${name}.${parameter.name}` })),
    );
    if (new Set(this.held.map(({ handle }) => handle)).size < this.held.length)
      throw new MemformerError("CONFIG", "two members of a joint model share their parameters: they would train twice");
  }

  /** One segment with a graph to the parameters and the given state. It is called inside {@link tidy}. */
  abstract forward(segment: SegmentTensors, state: State, options?: StepOptions & { readonly graph?: boolean }): Step;

  advance(segment: SegmentTensors, state: State, options?: StepOptions): State {
    return tidy(() => this.forward(segment, state, options).state.map((tensor) => tensor.detach()));
  }

  initialState(rows: number): State {
    return this.#each((_, member) => member.initialState(rows));
  }

  /** The segment on the model's device. Override it to check tokens against a vocabulary. */
  upload(segment: Segment): SegmentTensors {
    return uploadTo(this.device, segment);
  }

  /** Each member's part of a state, by its name. Throws MemformerError SHAPE for another number of tensors. */
  statesOf(state: State): { readonly [Name in keyof Members]: State } {
    if (state.length !== this.stateLayout.length) {
      throw new MemformerError(
        "SHAPE",
        `this model's state is ${this.stateLayout.length} tensor(s), got ${state.length}`,
      );
    }
    let at = 0;
    const states = this.#list.map(([name, { stateLayout }]) => [name, state.slice(at, (at += stateLayout.length))]);
    return Object.fromEntries(states) as { readonly [Name in keyof Members]: State };
  }

  /** The state of all members, from each one's. */
  stateFrom(states: { readonly [Name in keyof Members]: State }): State {
    return this.#each((name) => states[name]!);
  }

  /** A parameter's values, shared with the member. Throws MemformerError CONFIG if there is none of that name. */
  parameter(name: string): Tensor {
    return this.#route(name, (member, own) => member.parameter(own));
  }

  ownParameter(name: string): Tensor {
    return this.#route(name, (member, own) => member.ownParameter(own));
  }

  /** A parameter's gradient so far, zeros where nothing reached it. */
  gradient(name: string): Tensor {
    return this.#route(name, (member, own) => member.gradient(own));
  }

  assign(name: string, value: Tensor): void {
    this.#route(name, (member, own) => {
      member.assign(own, value);
    });
  }

  zeroGradients(): void {
    for (const [, member] of this.#list) member.zeroGradients();
  }

  clipGradients(most: number, whole?: Tensor): Tensor {
    return tidy(() => {
      const norms = this.#list.map(([, member]) => member.clipGradients(0));
      const norm = applyOperator("aten::linalg_vector_norm", applyOperator("aten::stack", norms));
      if (most > 0) for (const [, member] of this.#list) member.clipGradients(most, whole ?? norm);
      return norm;
    });
  }

  get revision(): number {
    return this.#list.reduce((sum, [, { revision }]) => sum + revision, 0);
  }

  revise(): void {
    for (const [, member] of this.#list) member.revise();
  }

  /** @internal */
  get held(): readonly HeldPart[] {
    return this.#each((name, { held }) => held.map(({ prefix, handle }) => ({ prefix: `${name}.${prefix}`, handle })));
  }

  get disposed(): boolean {
    return this.#list.some(([, { disposed }]) => disposed);
  }

  /** @internal */
  async weightsHash(): Promise<string> {
    return weightsHash(this);
  }

  /** @internal Every member reads its own. */
  readDescription(found: Readonly<Record<string, unknown>>, file: string): ModelDescription {
    const members = found["members"];
    if (typeof members !== "object" || members === null) return found;
    const read = Object.entries(members as Record<string, Readonly<Record<string, unknown>>>).map(([name, one]) => [
      name,
      this.members[name]?.readDescription?.(one, `${file}: ${name}`) ?? one,
    ]);
    return { ...found, members: Object.fromEntries(read) as JointDescription["members"] } as ModelDescription;
  }

  /** Frees every member once the calls made before have run. Idempotent. */
  async dispose(): Promise<void> {
    await Promise.all(this.#list.map(async ([, member]) => member.dispose()));
  }

  /** For `await using`: as `dispose`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #each<Value>(of: (name: string, member: Member) => readonly Value[]): Value[] {
    return this.#list.flatMap(([name, member]) => of(name, member));
  }

  /** `name` without its member, by that member. */
  #route<Result>(name: string, call: (member: Member, own: string) => Result): Result {
    const [, of, own] = /^([^.]*)\.(.*)$/s.exec(name) ?? [];
    if (of === undefined || !Object.hasOwn(this.members, of))
      throw new MemformerError("CONFIG", `the model has no parameter '${name}'`);
    return call(this.members[of]!, own!);
  }
}

/** What all members have in common. */
function sameOf<Value extends string>(
  members: readonly (readonly [string, Member])[],
  what: string,
  of: (member: Member) => Value,
): Value {
  if (members.length === 0) throw new MemformerError("CONFIG", "a joint model needs at least one member, got none");
  const values = members.map(([name, member]) => {
    if (!/^\w+$/.test(name))
      throw new MemformerError("CONFIG", `a member's name must be letters, digits and "_", got "${name}"`);
    return of(member);
  });
  const other = values.findIndex((value) => value !== values[0]);
  if (other < 0) return values[0]!;
  throw new MemformerError(
    "CONFIG",
    `members of a joint model must have one ${what}, got "${values[0]}" of ${members[0]![0]} and "${values[other]}" of ${members[other]![0]}`,
  );
}
