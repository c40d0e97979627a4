/** The page: puts together what is known, what can be done, and the views, which get all of it as `app`. */
import { html, render } from "./preact.js";
import { Page } from "./page-view.js";
import * as sessions from "./sessions.js";
import { api, app, attempt, changed, drawnBy } from "./state.js";
import * as talk from "./talk.js";
import { textFrom } from "./turn.js";

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
  const work = app.wantsToken ?? app.open; // a second token may come before the answer to the first
  api.token = token;
  app.wantsToken = undefined;
  changed();
  await attempt(work);
}

/** The texts of both futures since they parted from each other. */
function branches() {
  return app.futures.map(({ turns }) => textFrom(turns, app.branchedAt));
}

Object.assign(app, sessions, talk, { choose, chooseToken, show, dismiss, enterToken, branches });
addEventListener("keydown", (event) => {
  if (event.key === "Escape") app.stop();
});
drawnBy(() => render(html`<${Page} app=${app} />`, document.getElementById("app")));
void app.open();
