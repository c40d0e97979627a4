/**
 * Reads CHANGELOG.md, which is in the form of keepachangelog.com: `## [0.1.0] - 2026-01-31`, then `### Added` and its
 * like.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";

const kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];

/**
 * The text of `version`'s section. @throws Error, in a sentence, where there is none, or it is empty, undated or
 * malformed.
 */
export function releaseNotes(folder, version) {
  const sections = readFileSync(join(folder, "CHANGELOG.md"), "utf8").split(/^(?=## )/m);
  const section = sections.find((text) => text.startsWith(`## [${version}]`));
  if (section === undefined) throw new Error(`CHANGELOG.md has no section ## [${version}].`);
  const [head, ...lines] = section.split("\n");
  const date = / - (\d{4}-\d\d-\d\d)$/.exec(head)?.[1];
  if (date === undefined || Number.isNaN(Date.parse(date))) {
    throw new Error(`CHANGELOG.md: expected "## [${version}] - YYYY-MM-DD", got "${head}".`);
  }
  const unknown = lines.find((line) => line.startsWith("### ") && !kinds.includes(line.slice(4)));
  if (unknown !== undefined) throw new Error(`CHANGELOG.md: "${unknown}" is none of ${kinds.join(", ")}.`);
  if (!lines.some((line) => line.startsWith("- ")))
    throw new Error(`CHANGELOG.md: the section of ${version} lists nothing.`);
  return lines.join("\n").trim();
}
