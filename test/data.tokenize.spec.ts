/** Tokenizing by threads: the same file whatever their number, errors that name the document, nothing left behind. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import fc from "fast-check";
import {
  openTokenizer,
  prepareCorpus,
  type CorpusOptions,
  type TokenizeProgress,
  type Tokenizer,
} from "../lib/data/index.ts";
import type { MemformerError } from "../lib/errors.ts";
import { EncodePool } from "../lib/data/encode-pool.ts";
import { tokenize } from "../lib/data/tokenize.ts";
import { writeTokenParts } from "../lib/data/token-writer.ts";
import { byteLevelJson } from "./support/byte-level.ts";
import { failure } from "./support/failure.ts";

const megabytes = 1 << 20;

describe("tokenizing", () => {
  let folder: string, json: string, tokenizer: Tokenizer, opened: Record<string, Tokenizer>;
  const lines = Array.from(
    { length: 4000 },
    (_, i) => `Document ${i} says naïve things ${"to the thinking reader ".repeat(i % 60)}😀 ${i * 7919}`,
  );
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "memformer-test-"));
    json = join(folder, "tokenizer.json");
    writeFileSync(json, byteLevelJson(lines.slice(0, 60).join("\n"), 150));
    tokenizer = await openTokenizer(json);
    opened = { bytes: await openTokenizer("bytes"), gpt2: await openTokenizer("gpt2"), json: tokenizer };
  });
  after(() => rmSync(folder, { recursive: true }));

  const put = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  /** The token file of texts, as so many workers write it although there is little of it. */
  const fileOf = async (
    texts: readonly string[],
    given: Tokenizer,
    tokenizeThreads: number,
    size = Infinity,
  ): Promise<Buffer> => {
    const path = join(folder, "written.tokens");
    const documents = texts.map((text, i) => ({ text, file: "memory", number: i + 1 }));
    await writeTokenParts(path, tokenize(documents, size, { tokenizer: given, tokenizeThreads }), given);
    return readFileSync(path);
  };
  const prepared = async (options: Partial<CorpusOptions> & Pick<CorpusOptions, "inputs">): Promise<Buffer> => {
    const out = join(folder, "out");
    rmSync(out, { recursive: true, force: true });
    const made = await prepareCorpus({ tokenizer, out, documents: "lines", heldOut: 0, ...options });
    expect(readdirSync(out)).to.eql(["train.tokens"]);
    return readFileSync(made.train.path);
  };

  it("writes the same bytes by 1, 2 and 5 workers as by the calling thread, whatever the documents", async () => {
    const document = fc
      .tuple(fc.string({ unit: "grapheme", minLength: 1 }), fc.integer({ min: 1, max: 5 }), fc.boolean())
      .map(([text, power, long]) => text.repeat(long ? 4 ** power / 4 : 1));
    for (const given of Object.values(opened)) {
      await fc.assert(
        fc.asyncProperty(fc.array(document, { minLength: 1, maxLength: 30 }), async (texts) => {
          const alone = await fileOf(texts, given, 1, 0);
          for (const threads of [1, 2, 5])
            expect(Buffer.compare(await fileOf(texts, given, threads), alone)).to.equal(0);
        }),
        { numRuns: 2 },
      );
    }
  });

  it("keeps many documents in order, where batches take longer or shorter", async () => {
    const inputs = put("lines.txt", Array.from({ length: 3 }, () => lines.join("\n")).join("\n"));
    expect(readFileSync(inputs).length).to.be.above(2 * megabytes);
    const alone = await prepared({ inputs, tokenizer: { ...tokenizer } });
    for (const tokenizeThreads of [1, 2, 5]) {
      expect(Buffer.compare(await prepared({ inputs, tokenizeThreads }), alone), `${tokenizeThreads} workers`).to.equal(
        0,
      );
    }
  });

  it("cuts one huge document, of which every worker takes parts", async () => {
    const text = Array.from({ length: 4 }, () => lines.join(" ")).join(" ");
    const alone = await fileOf([text], { ...tokenizer, cut: undefined as never }, 1, 0);
    for (const threads of [0, 1, 3])
      expect(Buffer.compare(await fileOf([text], tokenizer, threads), alone)).to.equal(0);
  });

  it("holds out the tail of a single document by workers too", async () => {
    const inputs = put("single.txt", lines.join("\n").repeat(3));
    const whole = async (given: Tokenizer): Promise<Buffer[]> => {
      const out = join(folder, "single");
      await prepareCorpus({ inputs, tokenizer: given, out, documents: "file" });
      return ["train", "valid"].map((name) => readFileSync(join(out, `${name}.tokens`)));
    };
    expect(Buffer.concat(await whole(tokenizer)).equals(Buffer.concat(await whole({ ...tokenizer })))).to.equal(true);
  });

  it("starts a worker for each thread but the calling one, which is the last of several", async () => {
    let started = 0;
    const count = (): void => void started++;
    process.on("worker", count);
    try {
      for (const [threads, workers] of [
        [1, 1],
        [2, 1],
        [5, 4],
      ] as const) {
        started = 0;
        await fileOf(lines, tokenizer, threads);
        expect(started, `${threads} threads`).to.equal(workers);
      }
    } finally {
      process.off("worker", count);
    }
  });

  it("takes a user's own tokenizer, one wrapped around ours included, on the calling thread", async () => {
    const texts = lines.slice(0, 300);
    let calls = 0;
    const wrapped: Tokenizer = {
      ...tokenizer,
      encode: (text) => {
        calls++;
        return tokenizer.encode(text);
      },
    };
    expect((await fileOf(texts, wrapped, 2)).equals(await fileOf(texts, tokenizer, 2))).to.equal(true);
    expect(calls).to.be.at.least(texts.length);
    const changed = await openTokenizer(json),
      again = await openTokenizer(json);
    calls = 0;
    Object.assign(changed, {
      encode: (text: string) => {
        calls++;
        return again.encode(text);
      },
    });
    await fileOf(texts, changed, 2);
    expect(calls).to.be.at.least(texts.length);
  });

  it("refuses what cut gives if it is no place in the text", async () => {
    for (const at of [-1, 0, 1.5, NaN, 1e9]) {
      const error = await failure(async () => fileOf(["x".repeat(20_000)], { ...tokenizer, cut: () => at }, 1));
      expect(error.code).to.equal("ERR_MEMFORMER_CONFIG");
      expect(error.message).to.match(/The cut of tokenizer "json:\w+" must be a whole number from 4096 to 20000, got/);
    }
  });

  it("refuses a number of threads that is none", async () => {
    const error = await failure(async () => prepared({ inputs: put("a.txt", "a"), tokenizeThreads: -1 }));
    expect(error.message).to.equal("tokenizeThreads must be a whole number of at least 0, got -1");
  });

  it("says of an empty document in the middle what one thread says, after the documents before it", async () => {
    const inputs = put("gap.txt", [...lines, "", ...lines].join("\n"));
    const errors: MemformerError[] = [];
    for (const given of [{ ...tokenizer }, tokenizer]) {
      let documents = 0;
      const onProgress = (done: TokenizeProgress): void => void ({ documents } = done);
      errors.push(await failure(async () => prepared({ inputs, tokenizer: given, tokenizeThreads: 2, onProgress })));
      expect(documents).to.equal(4000);
      expect(readdirSync(join(folder, "out"))).to.eql([]);
    }
    expect(errors[0]).to.include({ code: "ERR_MEMFORMER_DATA" });
    expect(errors[1]!.message)
      .to.equal(errors[0]!.message)
      .and.match(/Document 4001 of .*gap\.txt is empty/);
    expect(errors[1]!.details).to.eql(errors[0]!.details);
  });

  it("names the document that a tokenizer throws at, by threads as on one", async () => {
    const message = (given: Tokenizer): Tokenizer => ({
      ...given,
      encode: (text) => {
        if (text.includes("<bad>")) throw new Error("no such word");
        return given.encode(text);
      },
    });
    const error = await failure(async () =>
      fileOf([...lines.slice(0, 900), "ab<bad>", ...lines], message(tokenizer), 2),
    );
    expect(error.code).to.equal("ERR_MEMFORMER_DATA");
    expect(error.message).to.equal("Document 901 of memory cannot be tokenized: no such word");
    expect(error.details).to.eql({ path: "memory", document: 901 });
  });

  it("stops at once, in the middle, leaving nothing", async () => {
    const inputs = put("long.txt", Array.from({ length: 12 }, () => lines.join("\n")).join("\n"));
    for (const given of [tokenizer, { ...tokenizer }]) {
      for (const when of ["before", "at the first document", "later"]) {
        const controller = new AbortController();
        let asked = 0;
        const abort = (): void => {
          if (asked === 0) asked = performance.now();
          controller.abort(new Error("enough"));
        };
        if (when === "before") abort();
        if (when === "later") setTimeout(abort, 100);
        const error = await failure(async () =>
          prepared({
            inputs,
            tokenizer: given,
            signal: controller.signal,
            onProgress: () => {
              if (when === "at the first document") abort();
            },
          }),
        );
        expect(performance.now() - asked, when).to.be.below(2000);
        expect(error.code).to.equal("ERR_MEMFORMER_ABORTED");
        expect((error.cause as Error).message).to.equal("enough");
        expect(readdirSync(join(folder, "out")), when).to.eql([]);
      }
    }
  });

  it("tells a progress that only grows, with a rate and the time left", async () => {
    const inputs = put("progress.txt", Array.from({ length: 3 }, () => lines.join("\n")).join("\n"));
    const seen: TokenizeProgress[] = [];
    await prepared({ inputs, tokenizeThreads: 2, onProgress: (done) => void seen.push(done) });
    for (const [i, now] of seen.entries()) {
      const { documents, tokens, bytes, share } = seen[i - 1] ?? { documents: 0, tokens: 0, bytes: 0, share: 0 };
      expect(now.documents >= documents && now.tokens >= tokens && now.bytes >= bytes && now.share >= share).to.equal(
        true,
      );
    }
    const last = seen.at(-1)!;
    expect(last).to.include({ documents: 12_000, share: 1, secondsLeft: 0 });
    expect(last.bytesPerSecond).to.be.above(0);
    const middle = seen[6000]!;
    expect(middle.share).to.be.within(0.3, 0.7);
    expect(middle.secondsLeft).to.be.above(0);
    const huge: TokenizeProgress[] = [];
    await prepared({ inputs, documents: "file", onProgress: (done) => void huge.push(done) });
    expect(huge.length).to.be.above(10);
  });

  it("leaves the event loop free", async () => {
    const inputs = put("busy.txt", Array.from({ length: 12 }, () => lines.join("\n")).join("\n"));
    const lateness = async (work: () => Promise<unknown>): Promise<number> => {
      const late: number[] = [];
      let before = performance.now();
      const timer = setInterval(() => {
        const now = performance.now();
        late.push(now - before - 1);
        before = now;
      }, 1);
      await work();
      clearInterval(timer);
      return late.sort((a, b) => a - b)[Math.floor(0.99 * late.length)]!;
    };
    const rest = await lateness(async () => sleep(1000));
    for (const given of [tokenizer, { ...tokenizer }]) {
      for (const documents of ["lines", "file"] as const) {
        const busy = await lateness(async () => prepared({ inputs, tokenizer: given, documents }));
        expect(busy, `at rest ${rest}`).to.be.below(20 + 4 * rest);
      }
    }
  });

  it("does without workers that cannot open the same tokenizer", async () => {
    const moved = join(folder, "moved.json");
    writeFileSync(moved, readFileSync(json));
    const given = await openTokenizer(moved);
    writeFileSync(moved, byteLevelJson("another text another", 3));
    const pool = new EncodePool(given, 2);
    await pool.started;
    expect([pool.gone, await pool.run(["a"])]).to.eql([true, undefined]);
    expect(pool.refusal).to.match(/moved\.json is now the tokenizer "json:\w+", not "json:/);
    const alone = await fileOf(lines, { ...tokenizer }, 1);
    expect((await fileOf(lines, given, 2)).equals(alone)).to.equal(true);
    rmSync(moved);
    expect((await fileOf(lines, given, 2)).equals(alone)).to.equal(true);
  });

  it("fails the text that a worker dies at, and has others do the rest", async () => {
    const pool = new EncodePool(tokenizer, 1);
    await pool.started;
    const endless = pool.run(["a", "b ".repeat(30e6)]),
      next = pool.run(["c"]);
    await sleep(300);
    await pool.kill();
    const batch = await endless;
    expect(batch!.failure).to.deep.include({ at: 1 });
    expect(String((batch!.failure as { thrown: unknown }).thrown)).to.match(/its worker thread ended/);
    expect(await next).to.equal(undefined);
    await pool.close();
  });

  it("ends with its process", async () => {
    mkdirSync(join(folder, "ends"), { recursive: true });
    expect(existsSync(json)).to.equal(true);
    const { spawnSync } = await import("node:child_process");
    const inputs = put("child.txt", Array.from({ length: 3 }, () => lines.join("\n")).join("\n"));
    const script = `
      import { openTokenizer, prepareCorpus } from ${JSON.stringify(new URL("../lib/data/index.ts", import.meta.url).href)};
      const tokenizer = await openTokenizer(${JSON.stringify(json)});
      const common = { inputs: ${JSON.stringify(inputs)}, tokenizer, out: ${JSON.stringify(join(folder, "ends"))}, documents: "lines" };
      await prepareCorpus(common);
      await prepareCorpus({ ...common, onProgress: () => { throw new Error("mine"); } }).catch((error) => console.log(error.message));`;
    const child = spawnSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script], {
      encoding: "utf8",
      timeout: 60_000,
    });
    expect(child.stderr).to.equal("");
    expect([child.status, child.stdout]).to.eql([0, "mine\n"]);
    expect(readdirSync(join(folder, "ends")).sort()).to.eql(["train.tokens", "valid.tokens"]);
  });
});
