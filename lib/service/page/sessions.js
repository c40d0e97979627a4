/** Sessions: found again, branched, kept, saved, restored, left. */
import { Future } from "./future.js";
import { api, app, attempt, changed } from "./state.js";
import { openTurn } from "./turn.js";

/** Asks for the model, and for the session that the address names. */
export async function open() {
  await attempt(async () => {
    app.model = await api.model();
    const id = /^#s=([\w-]+)$/.exec(location.hash)?.[1];
    if (id === undefined || app.futures.length > 0) return;
    try {
      take(await api.info(id), "Found again");
    } catch (error) {
      location.hash = "";
      throw error;
    }
  });
}

/** Goes on with a session of the server alone. */
export function take(info, label) {
  const future = new Future(api, info, changed);
  if (info.position > 0) {
    const note = `${info.position.toLocaleString("en")} tokens, of which the memory is here and the text is not.`;
    future.turns.push(openTurn("note", label, note, 0));
  }
  app.futures = [future];
  app.shown = 0;
  app.token = app.place = undefined;
  history.replaceState(null, "", `#s=${info.id}`);
  void future.memory.start().catch(() => undefined);
}

export async function branch() {
  await attempt(async () => {
    const [first] = app.futures;
    const second = new Future(api, await api.branch(first.id), changed, first);
    app.branchedAt = first.turns.length;
    app.futures = [first, second];
    await second.memory.start();
  });
}

/** Goes on with one of two futures; the other is deleted. */
export async function keep(number) {
  const left = app.futures.find((_, i) => i !== number);
  left.close();
  app.futures = [app.futures[number]];
  app.shown = 0;
  app.token = undefined;
  history.replaceState(null, "", `#s=${app.futures[0].id}`);
  changed();
  await attempt(() => api.remove(left.id));
}

/** Back to the beginning. */
export async function restart() {
  const left = app.futures;
  for (const future of left) future.close();
  app.futures = [];
  app.token = app.place = app.problem = undefined;
  history.replaceState(null, "", location.pathname + location.search);
  changed();
  await Promise.allSettled(left.map(({ id }) => api.remove(id)));
}

export async function save() {
  await attempt(async () => {
    const future = app.futures[app.shown];
    const url = URL.createObjectURL(await api.state(future.id));
    const link = Object.assign(document.createElement("a"), { href: url, download: `${future.position}.session` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  });
}

export async function restore(file) {
  await attempt(async () => {
    const info = await api.create(await file.arrayBuffer());
    for (const future of app.futures) future.close();
    take(info, `Restored from ${file.name}`);
  });
}
