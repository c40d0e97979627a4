import { expect } from "chai";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const root = new URL("..", import.meta.url).pathname;

/** A shape in a comment, `(B, T)` or `(..., 2 D)`; what is in it. */
const shapes = /\((?:\.\.\., )?((?:\d? ?[A-Z](?: [A-Z]| [+/] \d)?|\d)(?:, (?:\d? ?[A-Z](?: [A-Z]| \/ \d)?|\d))*)\)/g;

/** Letters that a header's comments use in shapes, and does not say what they are. */
function unexplained(text: string): string[] {
  const comments = text
    .split("\n")
    .flatMap((line) => /\/\/(.*)/.exec(line)?.[1]?.replace(/^\/?<?\s*/, "") ?? [])
    .join(" ");
  const [, legend = ""] = /[Ll]etters:(.*?)(?:\.(?= |$)|$)/.exec(comments) ?? [];
  const explained = new Set(legend.match(/\b[A-Z]\b/g)),
    used = new Set([...comments.matchAll(shapes)].flatMap(([, inside]) => inside!.match(/[A-Z]/g) ?? []));
  return [...used].filter((letter) => !explained.has(letter)).sort();
}

describe("headers of native/", () => {
  it("say what the letters of their shapes are", () => {
    const headers = readdirSync(join(root, "native"), { recursive: true, encoding: "utf8" }).filter((path) =>
      /\.(h|cuh)$/.test(path),
    );
    expect(headers.length).to.be.above(90);
    const missing = headers
      .map((path) => [path, unexplained(readFileSync(join(root, "native", path), "utf8"))] as const)
      .filter(([, letters]) => letters.length > 0);
    expect(Object.fromEntries(missing)).to.deep.equal({});
  });

  it("are found out where they do not", () => {
    const legend = "// Letters: B batch, D width.\n";
    expect(unexplained(`${legend}/// x (B, D) and y (..., 2 D).`)).to.deep.equal([]);
    expect(unexplained(`${legend}/// x (B, T, D) -> (G B, T)\nint N; // (B)`)).to.deep.equal(["G", "T"]);
    expect(unexplained("/// x (B), (see below), 3 (A note)")).to.deep.equal(["B"]);
  });
});
