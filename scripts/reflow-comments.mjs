/**
 * Breaks the comment lines of TypeScript and JavaScript that are wider than `width`, which prettier leaves alone. As
 * clang-format does it: what does not fit moves to the start of the paragraph's next line; lines that fit stay as they
 * are. A comment behind code is not touched.
 */

/** A line that is a comment and nothing else: its indent with the mark, and the text. */
const commentLine = /^(\s*(?:\/\/+|\*(?!\/)))(\s+)(\S.*)$/;
/**
 * A text that begins something of its own: a tag, an item, a heading, a table, a fence, or an instruction to a tool.
 */
const opening = /^(@|[-*+] |\d+\. |#|\||```|eslint|prettier|@ts-|c8 |v8 )/;

/** @param {string} text @param {number} width @returns {string} */
export function reflowComments(text, width) {
  const lines = text.split("\n");
  const result = [];
  for (let i = 0; i < lines.length; i += 1) {
    const line = expandOneLiner(lines[i], width);
    if (line.length > 1) {
      lines.splice(i, 1, ...line);
      i -= 1;
      continue;
    }
    const match = commentLine.exec(lines[i]);
    if (lines[i].length <= width || match === null) {
      result.push(lines[i]);
      continue;
    }
    const [, mark, gap, content] = match;
    const hanging = /^([-*+] |\d+\. )/.exec(content)?.[0].length ?? 0;
    const prefix = mark + gap;
    const cut = lastBreak(content, width - prefix.length);
    if (cut === undefined) {
      result.push(lines[i]);
      continue;
    }
    result.push(prefix + content.slice(0, cut));
    const rest = content.slice(cut + 1);
    const next = commentLine.exec(lines[i + 1] ?? "");
    if (next !== null && next[1] === mark && next[2].length === gap.length + hanging && !opening.test(next[3])) {
      lines[i + 1] = `${next[1]}${next[2]}${rest} ${next[3]}`;
    } else {
      lines.splice(i + 1, 0, `${prefix}${" ".repeat(hanging)}${rest}`);
    }
  }
  return result.join("\n");
}

/** `/** text *\/` as three lines if it is too wide for one. */
function expandOneLiner(line, width) {
  const match = line.length > width ? /^(\s*)\/\*\* (.*) \*\/$/.exec(line) : null;
  return match === null ? [line] : [`${match[1]}/**`, `${match[1]} * ${match[2]}`, `${match[1]} */`];
}

/**
 * Where to break `content` so that `room` columns hold its start: the last blank that does, or the first beyond. Never
 * inside of `code` or of {@link x}, nor where the next line would begin with a mark.
 */
function lastBreak(content, room) {
  let inside = false;
  let best;
  for (let at = 0; at < content.length && (at <= room || best === undefined); at += 1) {
    if (content[at] === "`") inside = !inside;
    if (content.startsWith("{@", at)) inside = true;
    if (content[at] === "}") inside = false;
    if (content[at] === " " && !inside && at > 0 && !opening.test(content.slice(at + 1))) best = at;
  }
  return best;
}
