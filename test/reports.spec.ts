/** Holds the table of test/reports.md to the tests that it names. */
import { expect } from "chai";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("./", import.meta.url));
const table = readFileSync(`${folder}reports.md`, "utf8");
const COUNT = 40;

/** What is wrong with a table: its numbers, a cell that is empty, a spec or a test that is not there. */
function faultsOf(text: string): string[] {
  const rows = [...text.matchAll(/^\| (\d+) \|(.*)\|$/gm)];
  const faults: string[] = [];
  rows.forEach(([, number], i) => {
    if (Number(number) !== i + 1) faults.push(`row ${i + 1} has the number ${number}`);
  });
  if (rows.length !== COUNT) faults.push(`${rows.length} rows`);
  for (const [, number, rest] of rows) {
    const cells = rest!.split(" | ").map((cell) => cell.trim()),
      [report, fault, tests, broken] = cells as [string, string, string, string];
    if (cells.length !== 4 || cells.includes("")) faults.push(`${number}: ${cells.length} cells, or an empty one`);
    else faults.push(...faultsOfRow(`${number}, ${report}: ${fault}`, tests.split("<br>"), broken.split("<br>")));
  }
  return faults;
}

function faultsOfRow(row: string, tests: readonly string[], broken: readonly string[]): string[] {
  const faults =
    tests.length === broken.length ? [] : [`${row}: ${tests.length} tests, ${broken.length} ways to break`];
  for (const test of tests) {
    const [, spec, title] = /^`(\S+)` `(.+)`$/.exec(test) ?? [];
    if (title === undefined) faults.push(`${row}: no spec and title in ${test}`);
    else if (!titlesOf(spec!).includes(title)) faults.push(`${row}: no test "${title}" in ${spec}.spec.ts`);
  }
  return faults;
}

/** The titles of a spec's tests as its source has them; none of one that is not there. Those skipped do not count. */
function titlesOf(spec: string): string[] {
  const path = `${folder}${spec}.spec.ts`;
  if (!existsSync(path)) return [];
  return [...readFileSync(path, "utf8").matchAll(/\bit\(\s*(["`])(.*?)\1,/g)].map(([, , title]) => title!);
}

describe("test/reports.md", () => {
  it("has a row for each report, whose tests are there", () => {
    expect(faultsOf(table)).to.deep.equal([]);
  });

  it("would not name a test, a spec or a row that is not there", () => {
    const lines = table.split("\n"),
      first = lines.findIndex((line) => line.startsWith("| 1 |"));
    const changed = (change: (line: string) => string): string[] =>
      faultsOf(lines.map((line, i) => (i === first ? change(line) : line)).join("\n"));
    expect(changed((line) => line.replace(" (1)` |", "` |"))).to.match(/no test "that are left/);
    expect(changed((line) => line.replace("`service.openai.turns`", "`service.none`"))).to.match(
      /in service\.none\.spec/,
    );
    expect(changed((line) => line.replace(/[^|]*\|$/, " |"))).to.match(/^1: 4 cells, or an empty one$/);
    expect(changed((line) => line.replace(/\|$/, "<br>and so |"))).to.match(/1 tests, 2 ways/);
    expect(changed(() => ""))
      .to.include("39 rows")
      .and.include("row 1 has the number 2");
  });
});
