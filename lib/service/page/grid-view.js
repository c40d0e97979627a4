/**
 * The grid: a row per segment, a column per slot, drawn for what is in sight alone. By the keyboard: arrow keys, Home,
 * End, Page Up and Page Down; what is chosen is told in words below it.
 */
import { html, useEffect, useLayoutEffect, useRef } from "./preact.js";
import { BARS, drawGrid, sizes } from "./grid-draw.js";

const MOVES = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  PageUp: [-10, 0],
  PageDown: [10, 0],
  Home: [0, -Infinity],
  End: [0, Infinity],
};

/** `at`: the chosen row; `reads`: what the chosen token read; `chosen`: whether somebody chose it. */
export function Grid({ feed, at, slot, reads, chosen, onChoose, onMove }) {
  const scroller = useRef(null),
    canvas = useRef(null),
    { rows, slots } = feed;
  const draw = () => {
    if (canvas.current !== null) drawGrid(canvas.current, scroller.current, { rows, slots, at, slot, reads, chosen });
  };
  const latest = useRef(draw);
  latest.current = draw;
  useLayoutEffect(() => {
    bringIntoSight(scroller.current, { rows: rows.length, slots, at, slot, chosen });
    draw();
  });
  useEffect(() => {
    const again = () => latest.current(),
      dark = matchMedia("(prefers-color-scheme: dark)"),
      resized = new ResizeObserver(again);
    resized.observe(scroller.current);
    dark.addEventListener("change", again);
    return () => {
      resized.disconnect();
      dark.removeEventListener("change", again);
    };
  }, []);
  const pressed = (event) => {
    const move = MOVES[event.key];
    if (move === undefined) return;
    event.preventDefault();
    onMove(...move);
  };
  const clicked = (event) => {
    const box = scroller.current.getBoundingClientRect(),
      { width, height } = sizes(scroller.current, slots);
    const column = Math.floor((event.clientX - box.left + scroller.current.scrollLeft) / width),
      line = Math.floor((event.clientY - box.top - BARS + scroller.current.scrollTop) / height);
    if (column >= 0 && column < slots && line >= 0 && line < rows.length) onChoose(line, column);
  };
  return html`<div
    class="grid"
    ref=${scroller}
    tabindex="0"
    role="application"
    aria-roledescription="memory grid"
    aria-label=${`${slots} slots by ${rows.length} segments. Arrow keys move.`}
    aria-describedby="cell"
    onScroll=${draw}
    onKeyDown=${pressed}
    onClick=${clicked}
  >
    <canvas ref=${canvas} aria-hidden="true"></canvas>
    <${Size} scroller=${scroller} slots=${slots} rows=${rows.length} />
  </div>`;
}

/** As large as the whole grid, so that it scrolls. */
function Size({ scroller, slots, rows }) {
  const box = useRef(null);
  useLayoutEffect(() => {
    const { width, height } = sizes(scroller.current, slots);
    box.current.style.width = `${Math.floor(width * slots)}px`;
    box.current.style.height = `${BARS + height * rows}px`;
  });
  return html`<div class="size" ref=${box}></div>`;
}

function bringIntoSight(scroller, { rows, slots, at, slot, chosen }) {
  const { width, height } = sizes(scroller, slots),
    { clientHeight, clientWidth, scrollTop, scrollLeft } = scroller;
  const top = at * height,
    visible = clientHeight - BARS;
  if (!chosen) scroller.scrollTop = rows * height;
  else if (top < scrollTop) scroller.scrollTop = top;
  else if (top + height > scrollTop + visible) scroller.scrollTop = top + height - visible;
  if (!chosen) return;
  if (slot * width < scrollLeft) scroller.scrollLeft = slot * width;
  else if ((slot + 1) * width > scrollLeft + clientWidth) scroller.scrollLeft = (slot + 1) * width - clientWidth;
}
