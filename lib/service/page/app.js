/** The page: what is known and what is done with it; views only show it. */
import { html, render } from "./preact.js";
import { Api } from "./api.js";
import { Future } from "./future.js";
import { Problem } from "./problem.js";
import { openTurn, textFrom } from "./turn.js";
import { Page } from "./page-view.js";

const api = new Api();
const app = {
  model: undefined, // what the server says of it; undefined: not known yet
  futures: [], // none: nothing has been read; two: a branch
  branchedAt: 0, // turns that both have in common
  shown: 0, // whose memory
  problem: undefined, // { problem, retry }
  place: undefined, // { segment, slot }: what is chosen in the memory; no segment: the latest
  draft: "", // what is written and not sent
  working: undefined, // "reading" or "generating", until the last future is done with it
  token: undefined, // { future, position }: the chosen token
  wantsToken: undefined, // what to do once there is one
  open,
  write,
  go,
  stop,
  branch,
  keep,
  restart,
  save,
  restore,
  choose,
  chooseToken,
  show,
  dismiss,
  enterToken,
};

let due = false;
function changed() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    render(html`<${Page} app=${app} />`, document.getElementById("app"));
  });
}

/** Runs `work`; what it meets is shown, with a way to try again. */
async function attempt(work) {
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

/** Asks for the model, and for the session that the address names. */
async function open() {
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

function take(info, label) {
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

/** Reads `text` in the futures of these numbers; with `options` they go on. */
async function go(numbers, { text, label, options }) {
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

function stop() {
  for (const future of app.futures) future.stop();
}

async function branch() {
  await attempt(async () => {
    const [first] = app.futures;
    const second = new Future(api, await api.branch(first.id), changed, first);
    app.branchedAt = first.turns.length;
    app.futures = [first, second];
    await second.memory.start();
  });
}

/** Goes on with one of two futures; the other is deleted. */
async function keep(number) {
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
async function restart() {
  const left = app.futures;
  for (const future of left) future.close();
  app.futures = [];
  app.token = app.place = app.problem = undefined;
  history.replaceState(null, "", location.pathname + location.search);
  changed();
  await Promise.allSettled(left.map(({ id }) => api.remove(id)));
}

async function save() {
  await attempt(async () => {
    const future = app.futures[app.shown];
    const url = URL.createObjectURL(await api.state(future.id));
    const link = Object.assign(document.createElement("a"), { href: url, download: `${future.position}.session` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  });
}

async function restore(file) {
  await attempt(async () => {
    const info = await api.create(await file.arrayBuffer());
    for (const future of app.futures) future.close();
    take(info, `Restored from ${file.name}`);
  });
}

function write(draft) {
  app.draft = draft;
  changed();
}

/** A place in the memory: a segment and a slot; undefined: the latest segment, whichever that is. */
function choose(place) {
  app.place = place;
  app.token = undefined;
  changed();
}

/** A token of future `number`, by its position in the document; undefined: none. */
function chooseToken(number, position) {
  app.token = position === undefined ? undefined : { future: number, position };
  if (position !== undefined) {
    app.shown = number;
    const row = app.futures[number].memory.rows.find(({ start, end }) => start <= position && position < end);
    if (row !== undefined) app.place = { segment: row.segment, slot: row.reads?.slots[position - row.start][0] ?? 0 };
  }
  changed();
}

function show(number) {
  app.shown = number;
  app.token = undefined;
  changed();
}

function dismiss() {
  app.problem = undefined;
  changed();
}

async function enterToken(token) {
  const work = app.wantsToken;
  api.token = token;
  app.wantsToken = undefined;
  changed();
  await attempt(work);
}

/** The texts of both futures since they parted from each other. */
app.branches = () => app.futures.map(({ turns }) => textFrom(turns, app.branchedAt));

addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
changed();
void open();
