import { expect } from "chai";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), "utf8");
const pages = ["", "docs"].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith(".md"))
    .map((name) => join(folder, name)),
);
/** Text without the fenced blocks, whose brackets are code. */
const prose = (text: string): string => text.replace(/^```[^]*?^```/gm, "");

/** The anchors of a page's headings, as GitHub makes them. */
function anchorsOf(text: string): string[] {
  return [...prose(text).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, "")
      .replaceAll(" ", "-"),
  );
}

/** Links of a page that lead nowhere. */
function brokenLinks(path: string, text: string): string[] {
  return [...prose(text).matchAll(/\]\((?![a-z]+:)([^)\s]+)\)/g)].flatMap(([, link]) => {
    const [target, anchor] = link!.split("#") as [string, string | undefined];
    const file = target === "" ? path : join(dirname(path), target);
    if (!existsSync(join(root, file))) return [`${path}: ${link}`];
    if (anchor === undefined || statSync(join(root, file)).isDirectory()) return [];
    return anchorsOf(file === path ? text : read(file)).includes(anchor) ? [] : [`${path}: ${link}`];
  });
}

/** Paths in backticks that are not there; `<name>` and globs stand for what a reader puts in. */
function missingPaths(text: string): string[] {
  return [...text.matchAll(/`((?:lib|native|test|bench|docs|scripts|third_party)\/[^`\s]*)`/g)]
    .map(([, path]) => path!)
    .filter((path) => !/[<*{]/.test(path) && !existsSync(join(root, path)));
}

describe("the pages", () => {
  for (const path of pages) {
    it(`${path} links to files and headings that are there`, () => {
      expect(brokenLinks(path, read(path))).to.deep.equal([]);
    });
  }

  it("would not link to a file or heading that is not there", () => {
    const text = "# One\n[a](lib/none.ts) [b](docs/data.md#none) [c](docs/data.md#streams) [d](#one) [e](#two)";
    expect(brokenLinks("README.md", text)).to.deep.equal([
      "README.md: lib/none.ts",
      "README.md: docs/data.md#none",
      "README.md: #two",
    ]);
  });

  for (const path of ["CONTRIBUTING.md", "docs/architecture.md"]) {
    it(`${path} names files that are there`, () => {
      expect(missingPaths(read(path))).to.deep.equal([]);
    });
  }

  it("docs/architecture.md has a line for every room, and no other", () => {
    const tree = /^```\n(test[^]*?)^```/m.exec(read("docs/architecture.md"))![1]!;
    const above: string[] = [];
    const listed = tree
      .trimEnd()
      .split("\n")
      .slice(1)
      .flatMap((line) => {
        const depth = /^ */.exec(line)![0].length / 2;
        above.splice(depth, Infinity, line.trim().split(" ", 1)[0]!);
        const path = above.join("/");
        return path.includes(".") ? [] : [path];
      });
    const folders = (path: string): string[] =>
      readdirSync(join(root, path), { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map(({ name }) => join(path, name));
    const rooms = ["lib", "native", "native/nn"].flatMap(folders);
    expect(listed.toSorted()).to.deep.equal(["lib", "native", ...rooms].toSorted());
  });

  it("would not name a file that is not there", () => {
    expect(missingPaths("`lib/none.ts` `lib/errors.ts` `native/ops/<op>/`")).to.deep.equal(["lib/none.ts"]);
  });
});
