/** A turn of the text, and which of its characters are which token of the document, as far as the memory tells. */

/** `kind`: "read", "model" or "note". `start`: its first token's position in the document, where that is known. */
export function openTurn(kind, label, text, start) {
  return { kind, label, text, start, end: undefined, live: kind === "model", tokens: [], aligned: 0, at: start };
}

/**
 * Takes from `rows`, segments in their order, the turn's tokens that are not known yet. `tokens`: `{ position, text,
 * offset }`; `aligned`: characters they cover, from the first token's offset on.
 */
export function align(turn, rows) {
  if (turn.start === undefined || turn.kind === "note") return;
  turn.at ??= turn.start;
  for (const row of rows) {
    if (row.end <= turn.at) continue;
    if (turn.end !== undefined && row.start >= turn.end) return;
    if (row.start > turn.at && !skip(turn, row)) return;
    for (let n = turn.at - row.start; n < row.tokens.length; n++) {
      if (turn.end !== undefined && turn.at >= turn.end) return;
      const text = row.tokens[n];
      if (!turn.text.startsWith(text, turn.aligned)) return;
      turn.tokens.push({ position: turn.at, text, offset: turn.aligned });
      turn.aligned += text.length;
      turn.at += 1;
    }
  }
}

/** Older segments are kept no more: goes on where this one's text is. Whether it is there. */
function skip(turn, row) {
  const text = row.tokens.join("");
  const found = text === "" ? -1 : turn.text.indexOf(text, turn.aligned + (row.start - turn.at));
  const at = found >= 0 ? found : turn.text.indexOf(text, turn.aligned);
  if (text === "" || at < 0) return false;
  turn.tokens = [];
  turn.aligned = at;
  turn.at = row.start;
  return true;
}

/** All that was read and said in `turns` from number `from` on. */
export function textFrom(turns, from) {
  return turns
    .slice(from)
    .map(({ text }) => text)
    .join("");
}

/** How many characters two texts have in common, from the first on. */
export function common(a, b) {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return /[\udc00-\udfff]/.test(a[length] ?? "") ? length - 1 : length; // not in the middle of a character
}
