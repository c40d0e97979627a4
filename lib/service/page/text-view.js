/** The text of a future: what was read and what the model went on with, its tokens to be chosen. */
import { html, useLayoutEffect, useMemo, useRef } from "./preact.js";
import { Tokens } from "./tokens-view.js";
import { common } from "./turn.js";

const SHOWN = 6000; // characters of a turn: of a book its end
const NAMES = ["A", "B"];

export function Text({ app, future, number }) {
  const two = app.futures.length === 2,
    scroller = useRef(null),
    { turns, busy } = future;
  // Stays at the end while it is there.
  const atEnd = useRef(true);
  const noticed = (event) => {
    const { scrollHeight, scrollTop, clientHeight } = event.target;
    atEnd.current = scrollHeight - scrollTop - clientHeight < 40;
  };
  useLayoutEffect(() => {
    atEnd.current = true; // who sends something wants to see what comes of it
  }, [turns.length]);
  useLayoutEffect(() => {
    if (atEnd.current) scroller.current.scrollTop = scroller.current.scrollHeight;
  });
  const parts = two ? partedAt(app, number) : undefined;
  let before = 0; // characters since the branch
  return html`<section class="panel" aria-label=${two ? `Future ${NAMES[number]}` : "Text"}>
    <header>
      <h2>${two ? `Future ${NAMES[number]}` : "Text"}</h2>
      <span class="muted small number">
        ${future.position.toLocaleString("en")} tokens in ${bytes(future.bytes)}
        ${two && html` <button class="plain" onClick=${() => app.keep(number)}>Keep only this</button>`}
      </span>
    </header>
    <div
      class="document"
      ref=${scroller}
      onScroll=${noticed}
      tabindex="0"
      role="log"
      aria-live="off"
      aria-label=${two ? `Text of future ${NAMES[number]}` : "The text so far"}
    >
      ${turns.map((turn, i) => {
        const since = i >= app.branchedAt && two ? Math.max(0, parts - before) : Infinity;
        if (i >= app.branchedAt) before += turn.text.length;
        return html`<${Turn} key=${i} app=${app} number=${number} turn=${turn} parted=${since} />`;
      })}
    </div>
    ${two && html`<p class="muted small" role="status">${partedWords(app, parts, busy)}</p>`}
    <p class="hidden" aria-live="polite">${announced(future)}</p>
  </section>`;
}

function Turn({ app, number, turn, parted }) {
  const chosen = app.token?.future === number ? app.token.position : undefined;
  // A book has thousands of tokens: only what has changed is drawn anew.
  const { text, tokens, live, note } = turn;
  return useMemo(() => turnOf(app, number, turn, parted, chosen), [text, tokens.length, live, note, parted, chosen]);
}

function turnOf(app, number, turn, parted, chosen) {
  const from = Math.max(0, turn.text.length - SHOWN),
    { tokens, aligned } = turn;
  const first = tokens[0]?.offset ?? aligned;
  const whole = turn.kind !== "note" && from === 0;
  const shownTokens = tokens.filter(({ offset }) => offset >= from);
  const start = shownTokens[0]?.offset ?? aligned;
  return html`<div class=${`turn ${turn.kind}`}>
    <h3>${turn.label}${turn.note ? `, ${turn.note}` : ""}${turn.seed !== undefined ? ` · seed ${turn.seed}` : ""}</h3>
    <div>
      ${!whole && from > 0 && html`<span class="muted">… ${from.toLocaleString("en")} characters before this …${"\n"}</span>`}
      <${Marked} text=${turn.text.slice(from, Math.max(from, Math.min(first, start)))} at=${from} parted=${parted} />
      ${
        shownTokens.length > 0 &&
        html`<${Tokens}
          label="Tokens of the text"
          prefix=${NAMES[number]}
          tokens=${shownTokens}
          chosen=${chosen}
          parted=${parted}
          onChoose=${(position) => app.chooseToken(number, position)}
        />`
      }
      <span class=${`tail ${turn.live ? "caret" : ""}`}>
        <${Marked} text=${turn.text.slice(Math.max(from, aligned))} at=${Math.max(from, aligned)} parted=${parted} />
      </span>
    </div>
  </div>`;
}

/** Text of which the part behind character `parted` of the turn is marked. */
function Marked({ text, at, parted }) {
  const same = Math.max(0, Math.min(text.length, parted - at));
  return html`${text.slice(0, same)}${same < text.length && html`<mark class="parted">${text.slice(same)}</mark>`}`;
}

function partedAt(app) {
  const [a, b] = app.branches();
  return common(a, b);
}

function partedWords(app, at, busy) {
  const [a, b] = app.branches();
  if (a === "" && b === "") return "Both go on from the same memory. Continue them with the same text and compare.";
  if (at === a.length && at === b.length) return "Word for word the same so far.";
  if (busy !== undefined && (at === a.length || at === b.length)) return "The same so far.";
  if (at === 0) return "They part from the first character on.";
  return `The same for ${at} characters since the branch; what differs is marked.`;
}

/** For a screen reader: whole sentences as they are there, not every piece of a word. */
function announced({ turns }) {
  const turn = turns.at(-1);
  if (turn?.kind !== "model") return "";
  if (!turn.live) return turn.text.slice(-400);
  const end = Math.max(turn.text.lastIndexOf(". "), turn.text.lastIndexOf("\n"));
  return end < 0 ? "" : turn.text.slice(Math.max(0, end - 400), end + 1);
}

export function bytes(count) {
  if (count === undefined) return "";
  return count < 1024
    ? `${count} bytes`
    : count < 2 ** 20
      ? `${(count / 1024).toFixed(1)} KiB`
      : `${(count / 2 ** 20).toFixed(1)} MiB`;
}
