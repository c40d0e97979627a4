/**
 * lucidrains' state dict beside ours, tensor by tensor. Letters are those of docs/checkpoint.md; W and K are V and H of
 * their decoder, which may differ there and may not here.
 */

/** An axis: a letter, as `D` or `3D`, or the number of buckets. */
export type Axis = "B32" | `${"" | "2" | "3"}D` | "F" | "H" | "K" | "M" | "V" | "W";

/** One of their tensors, or half of its rows. */
export interface TensorSlice {
  readonly name: string;
  readonly shape: readonly Axis[];
  readonly rows?: "first half" | "second half";
}

/** One of ours: the rows of `from`, one below the other. */
export interface Row {
  readonly ours: string;
  readonly from: readonly TensorSlice[];
}

export interface Layers {
  readonly encoder: number;
  /** 0: the model is `encoder_only`. */
  readonly decoder: number;
}

/** Every tensor of a model of so many layers, in the order of docs/checkpoint.md. */
export function rowsOf({ encoder, decoder }: Layers): Row[] {
  return [
    one("embedding.weight", "encoder.token_emb.weight", ["V", "D"]),
    ...stack("encoder", "encoder", "memory_read", encoder, "H"),
    ...(decoder === 0
      ? []
      : [
          one("decoder.embedding.weight", "decoder.net.token_emb.weight", ["W", "D"]),
          ...stack("decoder", "decoder.net", "cross_attention", decoder, "K"),
          ...affine("output", "decoder.net.to_logits", "W", "D"),
        ]),
    one("writer.initial", "memory_slots", ["M", "D"]),
    ...affine("writer.query", "mem_updater.to_q", "D", "D"),
    ...affine("writer.key", "mem_updater.to_kv", "2D", "D", "first half"),
    ...affine("writer.value", "mem_updater.to_kv", "2D", "D", "second half"),
    ...affine("writer.out", "mem_updater.to_out", "D", "D"),
    ...["ih", "hh"].flatMap((gate) => [
      one(`writer.gru.weight_${gate}`, `gru.weight_${gate}`, ["3D", "D"]),
      one(`writer.gru.bias_${gate}`, `gru.bias_${gate}`, ["3D"]),
    ]),
    ...feedForward("writer.feed_forward", "mem_ff.fn"),
  ];
}

function stack(ours: string, theirs: string, context: string, layers: number, heads: Axis): Row[] {
  const layer = (i: number): Row[] => {
    const [self, other, inner] = [0, 1, 2].map((part) => `${theirs}.layer_blocks.layers.${i}.${part}.fn`) as [
      string,
      string,
      string,
    ];
    const [attention, read] = [`${ours}.${i}.self_attention`, `${ours}.${i}.${context}`];
    return [
      ...affine(`${attention}.norm`, `${self}.norm`, "D"),
      ...["weight", "bias"].map((what): Row => ({
        ours: `${attention}.qkv.${what}`,
        from: [piece(`${self}.fn.to_q.${what}`, "D", what), piece(`${self}.fn.to_kv.${what}`, "2D", what)],
      })),
      ...affine(`${attention}.out`, `${self}.fn.to_out`, "D", "D"),
      ...affine(`${read}.norm`, `${other}.norm`, "D"),
      ...affine(`${read}.query`, `${other}.fn.to_q`, "D", "D"),
      ...affine(`${read}.key_value`, `${other}.fn.to_kv`, "2D", "D"),
      ...affine(`${read}.out`, `${other}.fn.to_out`, "D", "D"),
      ...feedForward(`${ours}.${i}.feed_forward`, inner),
    ];
  };
  return [
    ...Array.from({ length: layers }, (_, i) => layer(i)).flat(),
    ...affine(`${ours}.norm`, `${theirs}.norm`, "D"),
    one(`${ours}.relative_bias`, `${theirs}.layer_blocks.rel_pos_emb.relative_attention_bias.weight`, ["B32", heads]),
  ];
}

function feedForward(ours: string, theirs: string): Row[] {
  return [
    ...affine(`${ours}.norm`, `${theirs}.norm`, "D"),
    ...affine(`${ours}.up`, `${theirs}.fn.net.0`, "F", "D"),
    ...affine(`${ours}.down`, `${theirs}.fn.net.2`, "D", "F"),
  ];
}

/** Weight and bias of a linear layer, or without `input` of a norm. */
function affine(ours: string, theirs: string, output: Axis, input?: Axis, rows?: TensorSlice["rows"]): Row[] {
  return [
    one(`${ours}.weight`, `${theirs}.weight`, input === undefined ? [output] : [output, input], rows),
    one(`${ours}.bias`, `${theirs}.bias`, [output], rows),
  ];
}

function piece(name: string, output: Axis, what: string): TensorSlice {
  return { name, shape: what === "weight" ? [output, "D"] : [output] };
}

function one(ours: string, name: string, shape: readonly Axis[], rows?: TensorSlice["rows"]): Row {
  return { ours, from: [{ name, shape, ...(rows === undefined ? {} : { rows }) }] };
}
