/** Draws the part of the grid that is in sight, and above it a bar per slot: how much it changed, or was read. */
import { CLASSES, drawCell } from "./classes.js";

/** Height of the bars, with the line under them. */
export const BARS = 56;
const LEAST = 7; // width of a column
const HEIGHT = 12; // of a row

export function sizes(scroller, slots) {
  return { width: Math.max(LEAST, Math.min(40, scroller.clientWidth / slots)), height: HEIGHT };
}

export function drawGrid(canvas, scroller, { rows, slots, at, slot, reads, chosen }) {
  const { clientWidth, clientHeight, scrollLeft, scrollTop } = scroller,
    ratio = devicePixelRatio || 1,
    { width, height } = sizes(scroller, slots);
  if (canvas.width !== clientWidth * ratio || canvas.height !== clientHeight * ratio) {
    canvas.width = clientWidth * ratio;
    canvas.height = clientHeight * ratio;
    canvas.style.width = `${clientWidth}px`;
    canvas.style.height = `${clientHeight}px`;
  }
  const style = getComputedStyle(canvas),
    colour = (name) => style.getPropertyValue(name).trim(),
    colours = Object.fromEntries(Object.entries(CLASSES).map(([letter, { colour: name }]) => [letter, colour(name)]));
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, clientWidth, clientHeight);
  const firstSlot = Math.floor(scrollLeft / width),
    lastSlot = Math.min(slots, Math.ceil((scrollLeft + clientWidth) / width));
  const x = (m) => m * width - scrollLeft,
    y = (row) => BARS + row * height - scrollTop;

  const last = Math.min(rows.length, Math.ceil((scrollTop + clientHeight - BARS) / height));
  for (let row = Math.floor(scrollTop / height); row < last; row++) {
    const { classes } = rows[row];
    if (row === at) {
      context.fillStyle = colour("--wash");
      context.fillRect(0, y(row), clientWidth, height);
    }
    if (classes === undefined) continue;
    for (let m = firstSlot; m < lastSlot; m++) {
      context.fillStyle = colours[classes[m]];
      drawCell(context, classes[m], x(m) + 1, y(row) + 1, width - 2, height - 2);
    }
  }
  drawReads(context, { reads, slots, x, y: y(at), width, height, colour: colour("--ink") });
  if (chosen && reads === undefined) {
    context.strokeStyle = colour("--ink");
    context.lineWidth = 2;
    context.strokeRect(x(slot), y(at), width, height);
  }

  // The bars stand above whatever scrolls under them.
  context.fillStyle = colour("--surface");
  context.fillRect(0, 0, clientWidth, BARS - 4);
  context.fillStyle = colour("--line");
  context.fillRect(0, BARS - 5, clientWidth, 1);
  const values = reads === undefined ? rows[at].change : readShares(reads, slots);
  if (values !== undefined) {
    const most = reads === undefined ? 1 : Math.max(...values, 1e-9);
    context.fillStyle = colour(reads === undefined ? "--muted" : "--accent");
    for (let m = firstSlot; m < lastSlot; m++) {
      const bar = Math.max(1, ((BARS - 24) * values[m]) / most);
      context.fillRect(x(m) + 1, BARS - 5 - bar, width - 2, bar);
    }
  }
  context.fillStyle = colour("--muted");
  context.font = `12px ${style.fontFamily}`;
  context.textBaseline = "top";
  const words = `how much each slot changed at segment ${(rows[at].segment + 1).toLocaleString("en")}`;
  context.fillText(reads === undefined ? words : "how much the chosen token read of each slot", 4, 3);
}

/** A frame around the cells that were read, the heavier the more. */
function drawReads(context, { reads, slots, x, y, width, height, colour }) {
  if (reads === undefined) return;
  context.strokeStyle = colour;
  for (const { slot, weight } of reads) {
    if (slot >= slots) continue;
    const share = weight / reads[0].weight;
    if (share < 0.05) continue;
    context.lineWidth = 0.5 + 2 * share;
    context.globalAlpha = 0.3 + 0.7 * share;
    context.strokeRect(x(slot) + 0.5, y - 0.5, width - 1, height + 1);
  }
  context.globalAlpha = 1;
}

function readShares(reads, slots) {
  const shares = new Float32Array(slots);
  for (const { slot, weight } of reads) if (slot < slots) shares[slot] = weight;
  return shares;
}
