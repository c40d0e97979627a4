import { expect } from "chai";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadError } from "../lib/toolchain/load-error.ts";

const root = fileURLToPath(new URL("../", import.meta.url));
const page = readFileSync(join(root, "docs/troubleshooting.md"), "utf8");
const sections = page
  .split(/^### /m)
  .slice(1)
  .map((text) => ({ code: text.split("\n", 1)[0]!, text }));

/** The text of our sources, with sentences that are written on two lines put together again. */
const sources = ["lib", "native"]
  .flatMap((top) =>
    readdirSync(join(root, top), { recursive: true, encoding: "utf8" })
      .filter((path) => /\.(ts|cpp|h)$/.test(path) && !path.endsWith(".spec.ts"))
      .map((path) => readFileSync(join(root, top, path), "utf8")),
  )
  .join("\n")
  .replace(/["`]\s*\+?\s*\n\s*["`]/g, "")
  .replaceAll('\\"', '"');

describe("docs/troubleshooting.md", () => {
  it("has a heading for every code, and no other", () => {
    const type = /type ErrorCode =([^;]+);/.exec(readFileSync(join(root, "lib/errors.ts"), "utf8"))![1]!;
    const codes = [...type.matchAll(/"([A-Z_]+)"/g)].map(([, code]) => `ERR_MEMFORMER_${code}`);
    expect(codes).to.have.length.above(20);
    expect(sections.map(({ code }) => code).sort()).to.deep.equal(codes.sort());
  });

  for (const { code, text } of sections) {
    it(`${code}: message, cause and remedy`, () => {
      const parts = /^\S+\n\n```text\n([^]+?)\n```\n\n\*\*Cause\.\*\* [^]+\n\n\*\*Remedy\.\*\* [^]+$/.exec(text);
      expect(parts, "```text, **Cause.**, **Remedy.**").not.to.equal(null);
      // Between what differs, a message is in the sources to the letter.
      for (const message of parts![1]!.split("\n")) {
        const fixed = message
          .split(/<[^>]*>/)
          .map((part) => part.trim())
          .filter((part) => /\w{2}/.test(part));
        expect(fixed, message).not.to.deep.equal([]);
        for (const part of fixed) expect(sources.includes(part), `"${part}" of: ${message}`).to.equal(true);
      }
    });
  }

  it("is where errors of loading point to", () => {
    const { message } = loadError("LOAD_FAILED", "It does not load.", [], []);
    const anchor = /docs\/troubleshooting\.md#(\S+)$/.exec(message)![1]!;
    expect(sections.map(({ code }) => code.toLowerCase())).to.include(anchor);
  });

  it("links to pages that are there", () => {
    const names = readdirSync(join(root, "docs"));
    for (const [, target] of page.matchAll(/\]\(([\w-]+\.md)(?:#[\w-]+)?\)/g)) expect(names).to.include(target);
  });
});
