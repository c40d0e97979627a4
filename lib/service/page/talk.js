/** Turns: what is sent to the futures, and what is done when it fails. */
import { take } from "./sessions.js";
import { api, app, attempt, changed } from "./state.js";

/** Reads `text` in the futures of these numbers; with `options` they go on. */
export async function go(numbers, { text, label, options }) {
  if (app.working !== undefined) return;
  const kind = options === undefined ? "reading" : "generating",
    failed = [];
  await attempt(async () => {
    app.working = kind;
    if (app.draft === text) app.draft = "";
    changed();
    try {
      await run(numbers, kind, { text, label, options }, failed);
    } catch (error) {
      if (app.draft === "" && label === undefined) app.draft = text; // nothing that was written is lost
      throw error;
    } finally {
      app.working = undefined;
    }
  });
}

/** `failed`: those that are to be tried again, the others not; it is filled with those that fail. */
async function run(numbers, kind, { text, label, options }, failed) {
  if (app.futures.length === 0) take(await api.create(), "");
  const futures = failed.length > 0 ? failed.splice(0) : numbers.map((i) => app.futures[i] ?? app.futures[0]);
  const results = await Promise.allSettled(futures.map((future) => future.run(kind, text, label, options)));
  failed.push(...futures.filter((_, i) => results[i].status === "rejected"));
  const problem = results.find(({ status }) => status === "rejected");
  if (problem !== undefined) throw problem.reason;
}

export function stop() {
  for (const future of app.futures) future.stop();
}

export function write(draft) {
  app.draft = draft;
  changed();
}
