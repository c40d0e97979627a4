/** Segments as a model sees them: what came before as source, what there is as target, and the state. */
import { applyOperator, type Tensor } from "../engine/tensor.ts";
import { disposeSegment, type SegmentTensors } from "../model/segment-tensors.ts";
import type { State } from "../model/state.ts";
import type { DocumentState } from "./document-state.ts";
import type { SessionModel } from "./session-model.ts";
import { freeState, storedLayout } from "./stored-state.ts";

/** Segments of a batch, and the state they start from. Free them with `using`. */
export interface OpenedSegments extends Disposable {
  readonly segment: SegmentTensors;
  readonly state: State;
}

/** Consecutive segments of one document, and the state that the first starts from. Free them with `using`. */
export interface WholeSegments extends Disposable {
  readonly segments: readonly SegmentTensors[];
  readonly state: State;
}

/**
 * The segments under way of several documents, as one batch; a {@link SegmentReached} has one that is complete. The
 * state is in the dtypes of the model's, or with `asStored` as the documents keep it.
 */
export function openSegments(
  model: SessionModel,
  documents: readonly Pick<DocumentState, "segment" | "state">[],
  { asStored = false } = {},
): OpenedSegments {
  const { segmentLength: T } = model.config,
    B = documents.length;
  const source = new Int32Array(B * T),
    target = new Int32Array(B * T),
    reset = new Uint8Array(B);
  for (const [row, { segment }] of documents.entries()) {
    source.set(segment.source, row * T);
    target.set(segment.target, row * T);
    reset[row] = segment.first ? 1 : 0;
  }
  const { state, made } = stateOf(model, documents, asStored);
  const segment = model.upload({ batch: B, length: T, source, target, reset });
  return {
    segment,
    state,
    [Symbol.dispose]() {
      disposeSegment(segment);
      freeState(made);
    },
  };
}

/** Whole segments of `tokens`, a multiple of T, as they follow those of a document that is at a segment's border. */
export function wholeSegments(
  model: SessionModel,
  document: Pick<DocumentState, "segment" | "state">,
  tokens: Int32Array,
  { asStored = false } = {},
): WholeSegments {
  const { segmentLength: T } = model.config,
    { state, made } = stateOf(model, [document], asStored);
  let { source, first } = document.segment;
  const segments = Array.from({ length: tokens.length / T }, (_, g) => {
    const target = tokens.slice(g * T, (g + 1) * T);
    const segment = model.upload({ batch: 1, length: T, source, target, reset: Uint8Array.of(first ? 1 : 0) });
    [source, first] = [target, false];
    return segment;
  });
  return {
    segments,
    state,
    [Symbol.dispose]() {
      segments.forEach(disposeSegment);
      freeState(made);
    },
  };
}

/** The documents' states as rows of one, and what of it was made for that. */
function stateOf(
  model: SessionModel,
  documents: readonly Pick<DocumentState, "state">[],
  asStored: boolean,
): { state: State; made: Tensor[] } {
  const layout = storedLayout(model),
    made: Tensor[] = [];
  const keep = (tensor: Tensor): Tensor => (made.push(tensor), tensor);
  const states = documents.map(({ state }) => state);
  const state = model.stateLayout.map(({ dtype }, i) => {
    const rows = states.map((parts) => parts[i]!);
    const whole = states.length === 1 ? rows[0]! : keep(applyOperator("aten::cat", rows, 0));
    return asStored || dtype === layout[i]!.dtype ? whole : keep(applyOperator("aten::_to_copy", whole, dtype));
  });
  return { state, made };
}
