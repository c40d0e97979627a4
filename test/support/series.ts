/** Two Memformers in series: an encoder, and a model that reads its hidden states in place of tokens. */
import { JointModel, segmentSeed, type Memformer } from "../../lib/index.ts";
import type { SegmentTensors, State, Step, StepOptions } from "../../lib/index.ts";

/** P(target | source) of `upper`, whose source are the hidden states of `lower`; both remember. */
export class Series extends JointModel<{ readonly lower: Memformer; readonly upper: Memformer }> {
  forward(segment: SegmentTensors, state: State, options: StepOptions & { readonly graph?: boolean } = {}): Step {
    const { lower, upper } = this.members,
      states = this.statesOf(state);
    const { hidden, state: next } = lower.encode(segment, states.lower, options);
    const step = upper.forward({ ...segment, source: hidden }, states.upper, above(options));
    return { ...step, state: this.stateFrom({ lower: next, upper: step.state }) };
  }

  override advance(segment: SegmentTensors, state: State, options: StepOptions = {}): State {
    const { lower, upper } = this.members,
      states = this.statesOf(state);
    const { hidden, state: next } = lower.encode(segment, states.lower, options);
    const read = { ...segment, source: hidden };
    const after = upper.advance(read, states.upper, above(options));
    hidden.dispose();
    return this.stateFrom({ lower: next, upper: after });
  }
}

/** Its own draws: the seed of the model below drops the same elements. */
function above<Options extends StepOptions>(options: Options): Options {
  return { ...options, seed: segmentSeed(options.seed ?? 0, 1) };
}
