/** How often a model's likeliest tokens are the answers of unseen documents, by greedy decoding behind what is true. */
import { applyOperator, Tensor } from "../../engine/tensor.ts";
import type { Memformer } from "../../model/memformer.ts";
import type { State } from "../../model/recurrence.ts";
import { disposeSegment } from "../../model/segment-tensors.ts";
import { TaskStream, type Task, type TaskSegment } from "./task.ts";

/** Shares, 0 to 1. */
export interface Accuracy {
  /** Of tokens of answers. */
  readonly tokens: number;
  /** Of documents, all of whose answers are right. */
  readonly documents: number;
}

export interface AccuracyOptions {
  readonly lanes: number;
  /** Of each lane. */
  readonly documents: number;
  /** Of documents that training has not seen: another than its own. */
  readonly seed: number;
  /** Answers are given from the learned start in place of the state. Default false. */
  readonly forgotten?: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** Rejects with the signal's reason. */
export async function taskAccuracy(
  model: Memformer,
  task: Task,
  { lanes, documents, seed, forgotten = false, signal }: AccuracyOptions,
): Promise<Accuracy> {
  const stream = new TaskStream(task, lanes, seed);
  let state: State = model.initialState(lanes),
    asked = 0,
    right = 0,
    whole = 0;
  try {
    for (let document = 0; document < documents; document++) {
      const sound = new Uint8Array(lanes).fill(1);
      for (const answering of task.answering) {
        signal?.throwIfAborted();
        const segment = await stream.next();
        if (answering) {
          const start = forgotten ? model.initialState(lanes) : undefined;
          for (const { lane, token, guess } of await guesses(model, segment, start ?? state)) {
            asked += 1;
            if (guess === token) right += 1;
            else sound[lane] = 0;
          }
          for (const tensor of start ?? []) tensor.dispose();
        }
        const uploaded = model.upload(segment),
          next = model.advance(uploaded, state);
        disposeSegment(uploaded);
        for (const tensor of state) tensor.dispose();
        state = next;
      }
      whole += sound.reduce((sum, of) => sum + of, 0);
    }
  } finally {
    for (const tensor of state) tensor.dispose();
  }
  return { tokens: right / asked, documents: whole / (lanes * documents) };
}

interface Guess {
  readonly lane: number;
  readonly token: number;
  readonly guess: number;
}

/** The likeliest token at each place where an answer's stands, behind the true ones before it. */
async function guesses(model: Memformer, segment: TaskSegment, state: State): Promise<Guess[]> {
  const { batch: B, length: T, target, answers } = segment,
    found: Guess[] = [];
  const uploaded = model.upload(segment);
  try {
    for (let place = 0; place < T; place++) {
      const lanes = Array.from({ length: B }, (_, b) => b).filter((b) => answers[b * T + place] === 1);
      if (lanes.length === 0) continue;
      const before = new Int32Array(B * place);
      for (let b = 0; b < B; b++)
        for (let i = 0; i < place; i++) before[b * place + i] = Math.max(0, target[b * T + i]!); // a lane that has ended
      using prefix = Tensor.from(before, [B, place]);
      using logits = model.logits(uploaded, prefix, state);
      using likeliest = applyOperator("aten::argmax", logits, 1);
      const tokens = await likeliest.data();
      for (const lane of lanes) found.push({ lane, token: target[lane * T + place]!, guess: Number(tokens[lane]) });
    }
  } finally {
    disposeSegment(uploaded);
  }
  return found;
}
