/** The memory of the future that is shown: legend, grid, scrubber, and what is chosen in it. */
import { html } from "./preact.js";
import { Grid } from "./grid-view.js";
import { CLASSES, Glyph } from "./classes.js";
import { Tokens } from "./tokens-view.js";
import { bytes } from "./text-view.js";

export function Memory({ app }) {
  const { futures, shown } = app,
    future = futures[shown],
    feed = future?.memory;
  return html`<section class="panel watch" aria-label="Memory">
    <header>
      <h2>Memory</h2>
      ${
        feed?.facts &&
        html`<span class="muted small number">${bytes(future.bytes)}, whatever the length of the text</span>`
      }
    </header>
    ${futures.length === 2 && html`<${Which} app=${app} />`}
    ${
      feed?.reason !== undefined
        ? html`<p class="muted">${feed.reason}</p>`
        : feed === undefined || feed.rows.length === 0
          ? html`<${Legend} long />
              <p class="muted small">${emptyWords(future, app.model)}</p>`
          : html`<${Seen} app=${app} feed=${feed} />`
    }
  </section>`;
}

function emptyWords(future, model) {
  const length = model.segmentLength ? `${model.segmentLength} tokens` : "one segment";
  const start = `A row appears here for every ${length} that the model has read, a column for each slot of its memory.`;
  return future === undefined || future.position === 0
    ? start
    : `${start} ${future.position.toLocaleString("en")} so far: nothing has reached the memory since this page watches it.`;
}

function Which({ app }) {
  return html`<fieldset class="choice">
    <legend>Show the memory of</legend>
    ${["Future A", "Future B"].map(
      (name, i) =>
        html`<label>
          <input type="radio" name="shown" checked=${i === app.shown} onChange=${() => app.show(i)} />${name}
        </label>`,
    )}
  </fieldset>`;
}

/** `long`: with what the words mean. */
function Legend({ long }) {
  return html`<div class=${long ? "legend long" : "legend"} role="group" aria-label="Legend">
    ${Object.entries(CLASSES).map(
      ([letter, { name, does }]) =>
        html`<span title=${does}><${Glyph} letter=${letter} /> ${name}${long && `: it ${does}`}</span>`,
    )}
  </div>`;
}

function Seen({ app, feed }) {
  const { rows } = feed,
    { at, slot } = placeOf(app, feed),
    row = rows[at];
  // Keys come faster than pictures: from where it is now, not from where it was drawn.
  const move = (down, right) => {
    const now = placeOf(app, feed);
    choose(now.at + down, within(now.slot + right, feed.slots));
  };
  const choose = (to, which = placeOf(app, feed).slot) => {
    const segment = to >= rows.length - 1 ? undefined : rows[within(to, rows.length)].segment; // the latest, as it comes
    app.choose({ segment, slot: which });
  };
  const other = app.futures.length === 2 ? app.futures[1 - app.shown].memory.rows : [];
  const token = app.token?.future === app.shown ? app.token.position : undefined,
    reads = token !== undefined && row.reads && token >= row.start && token < row.end ? readsOf(row, token) : undefined;
  return html`
    <${Legend} />
    <${Grid}
      feed=${feed}
      at=${at}
      slot=${slot}
      reads=${reads}
      chosen=${app.place !== undefined}
      onChoose=${choose}
      onMove=${move}
    />
    <div class="scrub">
      <button onClick=${() => move(-1, 0)} disabled=${at === 0} aria-label="Segment before">‹</button>
      <input
        type="range"
        min="0"
        max=${rows.length - 1}
        value=${at}
        aria-label="Segment"
        aria-valuetext=${`Segment ${count(row.segment + 1)} of ${count(rows.at(-1).segment + 1)}`}
        onInput=${(event) => choose(Number(event.target.value))}
      />
      <button onClick=${() => move(1, 0)} disabled=${at === rows.length - 1} aria-label="Segment after">›</button>
    </div>
    <p class="cell number" id="cell" role="status">${cellWords(row, slot)}</p>
    <${Segment} app=${app} feed=${feed} row=${row} reads=${reads} token=${token} other=${other} />
  `;
}

function Segment({ app, feed, row, reads, token, other }) {
  const twin = other.find(({ segment }) => segment === row.segment);
  const tokens = row.tokens.map((text, n) => ({ position: row.start + n, text, offset: 0 }));
  return html`<div class="segment">
    <h3 class="number">${heading(row)}</h3>
    ${twin !== undefined && html`<p class="small">${differences(row, twin)}</p>`}
    ${
      row.end > row.start
        ? html`<${Tokens}
            label="Tokens of this segment"
            prefix="segment"
            tokens=${tokens}
            chosen=${token}
            onChoose=${(position) => app.chooseToken(app.shown, position)}
          />`
        : html`<p class="muted small">The start of the document: nothing has been read before it.</p>`
    }
    ${
      reads !== undefined
        ? html`<${Reads} reads=${reads} slots=${feed.slots} text=${row.tokens[token - row.start]} />`
        : html`<p class="muted small">Choose a token, here or in the text, to see which slots it read.</p>`
    }
    ${feed.facts.dropped > 0 && row === feed.rows[0] && html`<p class="muted small">Older segments are not kept.</p>`}
  </div>`;
}

function Reads({ reads, slots, text }) {
  return html`<h3>What ${nameOf(text)} read</h3>
    <ol class="reads number">
      ${reads.map(
        ({ slot, weight }) =>
          html`<li key=${slot}>
            <span>${slot < slots ? `slot ${slot + 1}` : `constant ${slot - slots + 1}`}</span>
            <svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
              <rect width=${(100 * weight) / reads[0].weight} height="8" />
            </svg>
            <span class="share">${(100 * weight).toFixed(1)} %</span>
          </li>`,
      )}
    </ol>`;
}

function nameOf(text) {
  if (text === "") return "this part of a character";
  return html`<q>${text.replaceAll(" ", "␣").replaceAll("\n", "↵")}</q>`;
}

function readsOf({ start, reads }, token) {
  const { slots, weights } = reads;
  return slots[token - start].map((slot, k) => ({ slot, weight: weights[token - start][k] }));
}

function count(number) {
  return number.toLocaleString("en");
}

/** What is chosen: the number of a row and a slot; the latest row where no segment is, or it is not kept any more. */
function placeOf({ place }, { rows, slots }) {
  const found = place?.segment === undefined ? -1 : rows.findIndex(({ segment }) => segment >= place.segment);
  return { at: found < 0 ? rows.length - 1 : found, slot: within(place?.slot ?? 0, slots) };
}

function within(number, length) {
  return Math.max(0, Math.min(length - 1, number));
}

function heading(row) {
  const tokens = row.end > row.start ? `, tokens ${count(row.start + 1)} to ${count(row.end)}` : "";
  return `Segment ${count(row.segment + 1)}${tokens}${counts(row)}`;
}

function differences({ classes = "" }, { classes: others = "" }) {
  const differ = [...classes].filter((letter, m) => letter !== others[m]).length;
  return differ === 0
    ? "Every slot did the same here in the other future."
    : `${differ} of ${classes.length} slots did something else here in the other future.`;
}

function counts({ classes, error }) {
  if (classes === undefined) return `: ${error}`;
  const of = (letter) => [...classes].filter((found) => found === letter).length;
  return `: ${Object.entries(CLASSES)
    .map(([letter, { past }]) => `${of(letter)} ${past}`)
    .join(", ")}`;
}

function cellWords({ classes, change, norm, segment }, slot) {
  if (classes === undefined) return "";
  const { did, does } = CLASSES[classes[slot]];
  return `Slot ${slot + 1} at segment ${count(segment + 1)} ${did} (${does}): changed ${(100 * change[slot]).toFixed(0)} %, norm ${norm[slot].toFixed(2)}.`;
}
