/** Two small models of other states than a memory: none, and one of a float and an integer part. */
import {
  applyOperator,
  ComposedModel,
  composedParameters,
  tidy,
  tokenLoss,
  type ComposedParameters,
  type ModelDescription,
  type SegmentTensors,
  type SessionModel,
  type State,
  type StatePart,
  type Step,
  type Tensor,
} from "../../lib/index.ts";

const V = 18; // as task() has
const D = 8;

const description = { width: D, segmentLength: 8, vocabulary: V, bos: 17 } as const; // sessions read the last three
type Description = ModelDescription & typeof description & { readonly kind: string };

export interface SmallOptions {
  readonly precision?: "float32" | "float64";
  readonly seed?: number;
}

/** Each target token from the source's at the same place. No state. */
export class Stateless extends ComposedModel<Description> implements SessionModel {
  override readonly stateLayout: readonly StatePart[] = [];

  static async create(options: SmallOptions = {}): Promise<Stateless> {
    const parts = await composedParameters(
      [
        { name: "embedding", shape: [V, D], deviation: 0.5 },
        { name: "head", shape: [V, D], deviation: 0.3, decay: true },
      ],
      { device: "cpu", ...options },
    );
    return new Stateless(parts, { ...description, kind: "stateless" });
  }

  forward({ source, target }: SegmentTensors): Step {
    return { ...tokenLoss(this.#logits(source), target), state: [] };
  }

  logits({ source }: SegmentTensors): Tensor {
    return tidy(() => applyOperator("aten::select.int", this.#logits(source), 1, -1));
  }

  /** (B, T, V) */
  #logits(source: Tensor): Tensor {
    const hidden = applyOperator("aten::tanh", embedded(this.weight("embedding"), source));
    return applyOperator("aten::matmul", hidden, transposed(this.weight("head")));
  }
}

/**
 * A running sum of what was read, (B, D), and how many tokens were, (B) int64; a row that starts a document restarts.
 * Both change what is predicted.
 *   m' = tanh(m + sum_t x_t / T)    n' = n + tokens of the source    logits_t = W (x_t + m' U + u log(1 + n'))
 */
export class Counting extends ComposedModel<Description> implements SessionModel {
  override readonly stateLayout: readonly StatePart[];

  static async create(options: SmallOptions = {}): Promise<Counting> {
    const parts = await composedParameters(
      [
        { name: "embedding", shape: [V, D], deviation: 0.5 },
        { name: "carry", shape: [D, D], deviation: 0.5, decay: true },
        { name: "count", shape: [D], value: 0.2, deviation: 0.1 },
        { name: "head", shape: [V, D], deviation: 0.3, decay: true },
      ],
      { device: "cpu", ...options },
    );
    return new Counting(parts);
  }

  constructor(parts: ComposedParameters) {
    super(parts, { ...description, kind: "counting" });
    this.stateLayout = [
      { name: "sum", shape: [D], dtype: parts.dtype, differentiable: true },
      { name: "tokens", shape: [], dtype: "int64", differentiable: false },
    ];
  }

  forward(segment: SegmentTensors, state: State): Step {
    const { hidden, next } = this.#read(segment, state);
    return { ...tokenLoss(this.#scores(hidden), segment.target), state: next };
  }

  logits(segment: SegmentTensors, _prefix: Tensor, state: State): Tensor {
    return tidy(() => applyOperator("aten::select.int", this.#scores(this.#read(segment, state).hidden), 1, -1));
  }

  /** Of every place, (B, T, D), and the next state. */
  #read({ source, reset, length }: SegmentTensors, [sum, tokens]: State): { hidden: Tensor; next: State } {
    const goesOn = applyOperator("aten::logical_not", reset),
      read = applyOperator("aten::ge.Scalar", source, 0);
    const x = applyOperator(
      "aten::mul.Tensor",
      embedded(this.weight("embedding"), source),
      applyOperator("aten::unsqueeze", read, 2),
    );
    const before = applyOperator("aten::mul.Tensor", sum!, applyOperator("aten::unsqueeze", goesOn, 1));
    const taken = applyOperator("aten::div.Scalar", applyOperator("aten::sum.dim_IntList", x, [1]), length);
    const next = applyOperator("aten::tanh", applyOperator("aten::add.Tensor", before, taken));
    const counted = applyOperator(
      "aten::add.Tensor",
      applyOperator("aten::mul.Tensor", tokens!, goesOn),
      applyOperator("aten::sum.dim_IntList", read, [1]),
    );
    const wide = applyOperator("aten::_to_copy", counted, this.stateLayout[0]!.dtype);
    const carried = applyOperator(
      "aten::add.Tensor",
      applyOperator("aten::matmul", next, this.weight("carry")),
      applyOperator(
        "aten::mul.Tensor",
        applyOperator("aten::unsqueeze", applyOperator("aten::log1p", wide), 1),
        this.weight("count"),
      ),
    );
    return {
      hidden: applyOperator("aten::add.Tensor", x, applyOperator("aten::unsqueeze", carried, 1)),
      next: [next, counted],
    };
  }

  /** (B, T, V) */
  #scores(hidden: Tensor): Tensor {
    return applyOperator("aten::matmul", hidden, transposed(this.weight("head")));
  }
}

/** (B, T, D); padding as token 0. */
function embedded(table: Tensor, tokens: Tensor): Tensor {
  return applyOperator("aten::embedding", table, applyOperator("aten::clamp_min", tokens, 0));
}

function transposed(matrix: Tensor): Tensor {
  return applyOperator("aten::transpose.int", matrix, 0, 1);
}
