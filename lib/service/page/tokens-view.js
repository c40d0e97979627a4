/**
 * Tokens of a text to be chosen, by a click or by the keyboard: the group is one stop of the tab key, arrow keys go
 * from token to token, Enter chooses.
 */
import { html, useState } from "./preact.js";

const STEPS = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 8, ArrowUp: -8 };

/**
 * `prefix`: of the tokens' ids; `tokens`:
 * `{ position, text, offset }`; `chosen`: a position; `parted`: the offset from which on texts differ.
 */
export function Tokens({ label, prefix, tokens, chosen, parted = Infinity, onChoose }) {
  const [current, setCurrent] = useState(0);
  const at = Math.min(current, tokens.length - 1);
  const within = (to) => Math.max(0, Math.min(tokens.length - 1, to));
  const pressed = (event) => {
    const { key } = event;
    if (key in STEPS) setCurrent((now) => within(within(now) + STEPS[key]));
    else if (key === "Home") setCurrent(0);
    else if (key === "End") setCurrent(tokens.length - 1);
    else if (key === "Enter" || key === " ") onChoose(tokens[at].position === chosen ? undefined : tokens[at].position);
    else return;
    event.preventDefault();
  };
  const clicked = (event) => {
    const number = event.target.dataset?.n;
    if (number === undefined) return;
    setCurrent(Number(number));
    onChoose(tokens[number].position === chosen ? undefined : tokens[number].position);
  };
  return html`<span
    class="tokens"
    role="listbox"
    tabindex="0"
    aria-label=${`${label}: arrow keys move, Enter shows what a token read`}
    aria-activedescendant=${`${prefix}-${tokens[at].position}`}
    onKeyDown=${pressed}
    onClick=${clicked}
    >${tokens.map(({ position, text, offset }, n) => {
      const classes = [position === chosen && "chosen", n === at && "current", offset >= parted && "parted"];
      return html`<span
        key=${position}
        id=${`${prefix}-${position}`}
        data-n=${n}
        role="option"
        aria-selected=${position === chosen}
        class=${classes.filter(Boolean).join(" ")}
        >${text}</span
      >`;
    })}</span
  >`;
}
