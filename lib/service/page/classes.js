/** What a slot may do with a segment: in words, in a colour, and in a shape, for who does not see the colour. */
import { html } from "./preact.js";

export const CLASSES = {
  l: { name: "Latched", past: "latched", did: "latched", does: "kept what it held", colour: "--latching" },
  m: { name: "Mixed", past: "mixed", did: "mixed", does: "took something in beside what it held", colour: "--mixing" },
  o: {
    name: "Overwritten",
    past: "overwritten",
    did: "was overwritten",
    does: "now holds something else",
    colour: "--overwritten",
  },
};

/** A cell of the legend, 14 by 14. */
export function Glyph({ letter }) {
  const shape = {
    l: html`<rect class="l" y="4.5" width="14" height="5" />`,
    m: html`<path class="m" d="M0 14h14V0z" />`,
    o: html`<rect class="o" width="14" height="14" />`,
  }[letter];
  return html`<svg viewBox="0 0 14 14" aria-hidden="true">${shape}</svg>`;
}

/** The same shape in a cell of a canvas. */
export function drawCell(context, letter, x, y, width, height) {
  if (letter === "l") context.fillRect(x, y + height * 0.32, width, height * 0.36);
  else if (letter === "o") context.fillRect(x, y, width, height);
  else {
    context.beginPath();
    context.moveTo(x, y + height);
    context.lineTo(x + width, y + height);
    context.lineTo(x + width, y);
    context.fill();
  }
}
