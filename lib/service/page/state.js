/** What the page knows. Whoever changes it says so; what fails is part of it, with a way to try again. */
import { Api } from "./api.js";
import { Problem } from "./problem.js";

export const api = new Api();
export const app = {
  model: undefined, // what the server says of it; undefined: not known yet
  futures: [], // none: nothing has been read; two: a branch
  branchedAt: 0, // turns that both have in common
  shown: 0, // whose memory
  place: undefined, // { segment, slot }: what is chosen in the memory; no segment: the latest
  token: undefined, // { future, position }: the chosen token
  draft: "", // what is written and not sent
  working: undefined, // "reading" or "generating", until the last future is done with it
  problem: undefined, // { problem, retry }
  wantsToken: undefined, // what to do once there is one
};

let draw = () => undefined,
  due = false;

/** Has `picture` called once a frame in which something has changed. */
export function drawnBy(picture) {
  draw = picture;
  changed();
}

export function changed() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw();
  });
}

/** Runs `work`; what it meets is shown, with a way to try again. */
export async function attempt(work) {
  app.problem = undefined;
  try {
    return await work();
  } catch (error) {
    const problem =
      error instanceof Problem ? error : new Problem({ title: "This page failed.", advice: String(error.message) });
    if (problem.status === 401) app.wantsToken = work;
    else app.problem = { problem, retry: () => attempt(work) };
  } finally {
    changed();
  }
}
