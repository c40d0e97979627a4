// Text files to documents: what counts as one, and which files are read.
import { MemformerError } from "../errors.ts";
import { textFiles } from "./text-files.ts";
import { HeadingFinder } from "./wikitext-headings.ts";
import { longestDocument, readLines, tooLong, type ReadCounter } from "./text-lines.ts";

/**
 * What counts as a document in a text file:
 * - `formfeed`: what lies between lines that hold only a form feed; without one, the file;
 * - `file`: the file;
 * - `lines`: each line;
 * - `headings`: from one ` = Title = ` line to the next (WikiText).
 */
export const documentRules = ["formfeed", "file", "lines", "headings"] as const;
/** The rule that divides a text file into documents. */
export type DocumentRule = (typeof documentRules)[number];

/** Where documents begin and end. */
export interface DocumentOptions {
  /** Default `formfeed`. A `.jsonl` file has a document on each line, whatever is said here. */
  readonly documents?: DocumentRule;
  /** The field of a `.jsonl` line that holds the text. Default `text`. */
  readonly field?: string;
  /** Leave out documents that are empty or white space; else they are refused. Default false. */
  readonly skipEmpty?: boolean;
}

/** A document, and where it came from: the file and its number there, from 1. */
export interface TextDocument {
  readonly text: string;
  readonly file: string;
  readonly number: number;
}

/** `readDocuments` of strict.ts, its options not checked for what it does not know. */
export async function* readDocuments(
  inputs: string | readonly string[],
  options: DocumentOptions = {},
): AsyncGenerator<TextDocument, void, void> {
  yield* documentsOf((await textFiles(inputs)).files, options);
}

/** The documents of files, in their order. */
export async function* documentsOf(
  files: readonly string[],
  options: DocumentOptions,
  counter?: ReadCounter,
): AsyncGenerator<TextDocument, void, void> {
  const rule = options.documents ?? "formfeed";
  if (!documentRules.includes(rule)) {
    throw new MemformerError(
      "CONFIG",
      `documents must be one of ${documentRules.join(", ")}, got ${JSON.stringify(rule)}`,
    );
  }
  for (const file of files) {
    let number = 0;
    const isJson = /\.jsonl(\.gz)?$/i.test(file);
    const texts = isJson ? jsonDocuments(file, options.field ?? "text", counter) : splitDocuments(file, rule, counter);
    for await (const text of texts) {
      number++;
      if (text.trim() !== "") yield { text, file, number };
      else if (!options.skipEmpty) throw emptyDocument(file, number);
    }
    if (number === 0 && !options.skipEmpty) throw emptyDocument(file, 1);
  }
}

/** What begins a line that a rule wants to see; the others need not be told apart. No text holds a NUL. */
const marks: Readonly<Record<DocumentRule, string>> = { formfeed: "\f", file: "\0", lines: "", headings: "" };

async function* splitDocuments(
  path: string,
  rule: DocumentRule,
  counter?: ReadCounter,
): AsyncGenerator<string, void, void> {
  let pieces: string[] = [];
  let length = 0;
  const finish = (): string => {
    const text = pieces.join("");
    [pieces, length] = [[], 0];
    return text;
  };
  let blank = true; // the document so far is white space
  let separated = false;
  const titles = new HeadingFinder();
  for await (const batch of readLines(path, counter, marks[rule])) {
    for (let lines of batch) {
      // one, where the rule looks at each
      if (rule === "lines") {
        yield lines.replace(/\r?\n$/, "");
        continue;
      }
      if (rule === "formfeed" && lines.startsWith("\f")) {
        const end = lines.indexOf("\n") + 1 || lines.length;
        if (lines.slice(0, end).trim() === "") {
          yield finish();
          [blank, separated] = [true, true];
          lines = lines.slice(end);
          if (lines === "") continue;
        }
      }
      if (rule === "headings" && titles.isTitle(lines) && !blank) yield finish();
      pieces.push(lines);
      length += lines.length;
      if (length > longestDocument) throw tooLong(path);
      blank &&= lines.trim() === "";
    }
  }
  // White space after the last separator, or an empty file, is not a document of its own.
  if (rule !== "lines" && pieces.length > 0 && !(separated && blank)) yield finish();
}

async function* jsonDocuments(path: string, field: string, counter?: ReadCounter): AsyncGenerator<string, void, void> {
  let number = 0;
  for await (const lines of readLines(path, counter)) {
    for (const line of lines) {
      number++;
      if (line.trim() === "") continue;
      const bad = (what: string, cause?: unknown): MemformerError =>
        new MemformerError("DATA", `${path} line ${number} ${what}.`, { cause, details: { path, line: number } });
      let record: unknown;
      try {
        record = JSON.parse(line);
      } catch (cause) {
        throw bad("is not JSON", cause);
      }
      const text = (record as Record<string, unknown> | null)?.[field];
      if (typeof text !== "string") throw bad(`has no text in its field "${field}"`);
      yield text;
    }
  }
}

function emptyDocument(file: string, number: number): MemformerError {
  return new MemformerError("DATA", `Document ${number} of ${file} is empty; skipEmpty leaves such documents out.`, {
    details: { path: file, document: number },
  });
}
