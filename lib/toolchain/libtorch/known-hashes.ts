/**
 * What is known of archives' hashes: the pins of the package, and for archives without pin what was seen when they were
 * first used here (`hashes.json` in the cache). One that changes under its name later is refused.
 */
import { readFileSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { MemformerError } from "../../errors.ts";
import type { PinnedFile, Pins } from "./pin.ts";
import type { Report } from "./report.ts";

export class KnownHashes {
  readonly #path: string;
  readonly #pinned: readonly PinnedFile[];
  readonly #seen: Record<string, string>;

  constructor(cache: string, { pins }: Pins) {
    this.#path = join(cache, "hashes.json");
    this.#pinned = Object.values(pins).flatMap(({ files }) => files);
    try {
      this.#seen = JSON.parse(readFileSync(this.#path, "utf8")) as Record<string, string>;
    } catch {
      this.#seen = {};
    }
  }

  pinOf(sha256: string): PinnedFile | undefined {
    return this.#pinned.find((file) => file.sha256 === sha256);
  }

  pinNamed(name: string): PinnedFile | undefined {
    return this.#pinned.find(({ file }) => file === name);
  }

  /**
   * Notes the hash of an archive without pin. Throws MemformerError LIBTORCH_HASH if another was noted under its name.
   */
  requireSame(name: string, sha256: string, report: Report | undefined): void {
    const before = this.#seen[name];
    if (before === undefined) report?.(`SHA-256 ${sha256} of ${name}; there is no pin to compare it with.`);
    else if (before !== sha256) {
      const message =
        `${name} is not the file that was first used here under that name; it was not used.\n` +
        `  SHA-256 then  ${before}\n  SHA-256 now   ${sha256}\n  If it may have changed, delete its line in ${this.#path}.`;
      throw new MemformerError("LIBTORCH_HASH", message, { details: { name, expected: before, found: sha256 } });
    }
    this.#seen[name] = sha256;
  }

  /** Writes down what was noted. Call it once the archives have proved good. */
  async save(): Promise<void> {
    if (Object.keys(this.#seen).length === 0) return;
    await writeFile(`${this.#path}.new`, `${JSON.stringify(this.#seen, null, 2)}\n`);
    await rename(`${this.#path}.new`, this.#path);
  }
}
