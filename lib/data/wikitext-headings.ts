// WikiText marks an article by a line ` = Title = `, a section by ` = = Section = = `. A formula may stand alone on a
// line of the first shape; what comes before tells it apart: a title has more blank lines before it than a paragraph.

/** Looks at the lines of a file one after another and says which of them are titles. */
export class HeadingFinder {
  #blankLines = Infinity; // before the current line; a file starts like after many
  #paragraphGap = 0; // blank lines between two paragraphs: 0 in the official files, more in some copies
  #gapKnown = false;
  #afterText = false;

  isTitle(line: string): boolean {
    const text = line.trim();
    if (text === "") {
      this.#blankLines++;
      return false;
    }
    const gap = this.#blankLines;
    this.#blankLines = 0;
    const marked = line.startsWith(" = ") && text.endsWith(" =");
    const section = text.startsWith("= = ") && text.endsWith(" = =");
    const title = marked && !section && gap > this.#paragraphGap;
    const isText = !title && !section;
    if (isText && this.#afterText) {
      this.#paragraphGap = this.#gapKnown ? Math.min(this.#paragraphGap, gap) : gap;
      this.#gapKnown = true;
    }
    this.#afterText = isText;
    return title;
  }
}
