import { expect } from "chai";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { appendFile, chmod, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { CheckpointStore, verify } from "../lib/checkpoint/store.ts";
import { failure } from "./support/failure.ts";

const LIB = fileURLToPath(new URL("../lib/", import.meta.url));
let root = "";

/** Two files whose content tells the step. */
const filesOf = (step: number, bytes = 1000) => ({
  "model.bin": (path: string) => writeFile(path, Buffer.alloc(bytes, step)),
  "state.json": (path: string) => writeFile(path, JSON.stringify({ step })),
});
const names = async (folder: string) => (await readdir(folder)).sort();

describe("a checkpoint store", () => {
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "memformer-store-"));
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  it("has no last and no best checkpoint before the first write, and makes its folder then", async () => {
    const store = new CheckpointStore(join(root, "deep", "run"));
    expect([await store.last(), await store.best(), await store.list()]).to.deep.equal([undefined, undefined, []]);
    const folder = await store.write(120, filesOf(120));
    expect(folder).to.equal(join(root, "deep", "run", "step-000120"));
    expect(await store.last()).to.equal(folder);
    expect(await store.best()).to.equal(undefined);
    expect(await names(folder)).to.deep.equal(["manifest.json", "model.bin", "state.json"]);
    expect((await verify(folder)).files["model.bin"]!.bytes).to.equal(1000);
  });

  it("keeps the newest and the best, and removes the rest", async () => {
    const store = new CheckpointStore(root, { keep: 2 });
    for (const step of [1, 2, 3, 4, 5]) await store.write(step, filesOf(step), { best: step === 2 });
    expect(await names(root)).to.deep.equal(["best.json", "last.json", "step-000002", "step-000004", "step-000005"]);
    expect(await store.best()).to.equal(join(root, "step-000002"));
    expect(await store.last()).to.equal(join(root, "step-000005"));
    await store.write(6, filesOf(6), { best: true });
    expect(await names(root)).to.deep.equal(["best.json", "last.json", "step-000005", "step-000006"]);
  });

  it("keeps one when asked to", async () => {
    const store = new CheckpointStore(root, { keep: 1 });
    for (const step of [1, 2]) await store.write(step, filesOf(step));
    expect(await names(root)).to.deep.equal(["last.json", "step-000002"]);
  });

  it("goes by the order of writing when a run is taken back to an earlier step", async () => {
    const store = new CheckpointStore(root, { keep: 2 });
    for (const step of [100, 200, 110]) await store.write(step, filesOf(step));
    expect((await store.list()).map(({ step }) => step)).to.deep.equal([200, 110]);
    expect(await store.last()).to.equal(join(root, "step-000110"));
  });

  it("writes a step again without touching the first", async () => {
    const store = new CheckpointStore(root);
    const first = await store.write(7, filesOf(7));
    const second = await store.write(7, filesOf(8));
    expect(basename(second)).to.equal("step-000007-2");
    expect(await store.last()).to.equal(second);
    await verify(first);
  });

  it("lets writes wait for one another, also after one that failed", async () => {
    const store = new CheckpointStore(root, { keep: 9 });
    const failing = failure(store.write(2, { x: () => Promise.reject(new Error("no")) }));
    const all = [store.write(1, filesOf(1)), store.write(3, filesOf(3))];
    expect((await failing).message).to.equal("no");
    expect((await Promise.all(all)).map((folder) => basename(folder))).to.deep.equal(["step-000001", "step-000003"]);
  });

  it("falls back to the newest whole checkpoint when a pointer is damaged, gone, or lies", async () => {
    const store = new CheckpointStore(root);
    for (const step of [1, 2]) await store.write(step, filesOf(step), { best: step === 1 });
    for (const text of ["", "{", "null", '{"folder":"../../etc"}', '{"folder":"step-000099"}']) {
      await writeFile(join(root, "last.json"), text);
      await writeFile(join(root, "best.json"), text);
      expect(await store.last(), text).to.equal(join(root, "step-000002"));
      expect(await store.best(), text).to.equal(join(root, "step-000001"));
    }
    await rm(join(root, "last.json"));
    expect(await store.last()).to.equal(join(root, "step-000002"));
  });

  it("passes over a folder that is not whole", async () => {
    const store = new CheckpointStore(root);
    for (const step of [1, 2]) await store.write(step, filesOf(step));
    await appendFile(join(root, "step-000002", "model.bin"), "x");
    expect(await store.last()).to.equal(join(root, "step-000001"));
    await rm(join(root, "step-000001", "state.json"));
    expect(await store.last()).to.equal(undefined);
  });

  it("names the damaged file", async () => {
    const folder = await new CheckpointStore(root).write(1, filesOf(1));
    const model = join(folder, "model.bin");
    const cases: [() => Promise<unknown>, RegExp, string][] = [
      [() => writeFile(model, Buffer.alloc(1000, 2)), /model\.bin is damaged: its SHA-256 is/, "model.bin"],
      [() => writeFile(model, "short"), /model\.bin has 5 bytes; the checkpoint's manifest says 1000/, "model.bin"],
      [() => rm(model), /model\.bin is missing/, "model.bin"],
    ];
    for (const [damage, words, file] of cases) {
      await damage();
      const error = await failure(verify(folder));
      expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
      expect(error.message).to.match(words);
      expect(error.details!["file"]).to.equal(file);
    }
  });

  it("refuses a manifest that is none, hostile, or of another version", async () => {
    const folder = await new CheckpointStore(root).write(1, filesOf(1));
    const good = JSON.parse(await readFile(join(folder, "manifest.json"), "utf8")) as object;
    const cases: [string, RegExp, string][] = [
      ["{", /is not valid JSON/, "CHECKPOINT_FORMAT"],
      ["null", /is not the manifest of a memformer checkpoint/, "CHECKPOINT_FORMAT"],
      [
        JSON.stringify({ ...good, formatVersion: 2 }),
        /format version 2; this memformer reads version 1/,
        "CHECKPOINT_VERSION",
      ],
      [JSON.stringify({ ...good, step: -1 }), /lacks a valid step/, "CHECKPOINT_FORMAT"],
      [JSON.stringify({ ...good, files: 3 }), /lacks the list of files/, "CHECKPOINT_FORMAT"],
      [
        JSON.stringify({ ...good, files: { "../x": { bytes: 1, sha256: "" } } }),
        /"..\/x", which is not a plain file name/,
        "CHECKPOINT_FORMAT",
      ],
      [JSON.stringify({ ...good, files: { x: null } }), /lists "x" without a byte count/, "CHECKPOINT_FORMAT"],
    ];
    for (const [text, words, code] of cases) {
      await writeFile(join(folder, "manifest.json"), text);
      const error = await failure(verify(folder));
      expect(error.message).to.match(words);
      expect(error.code).to.equal(`ERR_MEMFORMER_${code}`);
    }
  });

  it("refuses bad arguments", async () => {
    const store = new CheckpointStore(root);
    const noop = () => Promise.resolve();
    const cases: [() => Promise<unknown>, RegExp][] = [
      [() => store.write(-1, {}), /step: expected a whole number of at least 0, got -1/],
      [() => store.write(0.5, {}), /step: expected a whole number of at least 0, got 0.5/],
      [() => store.write(1, { "a/b": noop }), /file name "a\/b": expected a plain name/],
      [() => store.write(1, { "..": noop }), /file name "..": expected a plain name/],
      [() => store.write(1, { "manifest.json": noop }), /file name "manifest.json" is the store's own/],
      [() => store.write(1, { forgotten: noop }), /the writer of "forgotten" returned without writing a file/],
      [async () => new CheckpointStore(root, { keep: 0 }), /keep: expected a whole number of at least 1, got 0/],
    ];
    for (const [misuse, words] of cases) {
      const error = await failure(misuse());
      expect(error.message).to.match(words);
      expect(error.code).to.equal("ERR_MEMFORMER_CONFIG");
    }
    expect(await names(root)).to.deep.equal([]);
  });

  it("keeps the earlier checkpoint and leaves nothing partial when a write fails, with path and errno", async () => {
    const store = new CheckpointStore(root);
    const good = await store.write(1, filesOf(1));
    const before = await names(root);
    const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    const error = await failure(store.write(2, { ...filesOf(2), "optimizer.bin": () => Promise.reject(full) }));
    expect(error.code).to.equal("ERR_MEMFORMER_IO");
    expect(error.message).to.match(/^cannot write .*step-000002: ENOSPC: no space left on device/);
    expect(error.details).to.include({ errno: "ENOSPC", path: join(root, "step-000002") });
    expect(await names(root)).to.deep.equal(before);
    expect(await store.last()).to.equal(good);
    await verify(good);
  });

  it("survives a disk that really fills up", async function () {
    const disk = join(root, "disk");
    await mkdir(disk);
    const mount = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", disk];
    if (process.getuid?.() !== 0 || spawnSync("mount", mount).status !== 0) {
      console.log("      (skipped: a small disk can only be mounted by root)");
      this.skip();
    }
    try {
      const store = new CheckpointStore(disk);
      const good = await store.write(1, filesOf(1, 100_000));
      const error = await failure(store.write(2, filesOf(2, 400_000)));
      expect(error.code).to.equal("ERR_MEMFORMER_IO");
      expect(error.details!["errno"]).to.equal("ENOSPC");
      expect(await names(disk)).to.deep.equal(["last.json", "step-000001"]);
      expect(await store.last()).to.equal(good);
      await verify(good);
    } finally {
      execFileSync("umount", [disk]);
    }
  });

  it("says which folder cannot be written", async function () {
    const file = join(root, "file");
    await writeFile(file, "");
    const error = await failure(new CheckpointStore(join(file, "run")).write(1, filesOf(1)));
    expect(error.code).to.equal("ERR_MEMFORMER_IO");
    expect(error.details).to.deep.include({ errno: "ENOTDIR", path: join(file, "run") });
    if (process.getuid?.() === 0) return; // root may write everywhere
    await chmod(root, 0o500);
    expect((await failure(new CheckpointStore(root).write(1, filesOf(1)))).details!["errno"]).to.equal("EACCES");
    await chmod(root, 0o700);
  });

  it("sweeps what dead writers left, but not what a living one writes or what is not its own", async () => {
    const gone = spawnSync(process.execPath, ["-e", ""]).pid;
    const left = [
      `.step-000009.partial-${gone}-00000000`,
      `.last.json.partial-${gone}-00000000`,
      `.step-000009.partial-${process.pid}-00000000`,
    ];
    const kept = [".notes", ".step-000009.partial-1-00000000", "step-000001", "my.txt"];
    for (const name of [...left, ...kept]) await mkdir(join(root, name));
    await new CheckpointStore(root).write(5, filesOf(5));
    expect(await names(root)).to.deep.equal([...kept, "last.json", "step-000005"].sort());
  });

  it("is whole whichever file operation is the last one that happens", async function () {
    this.timeout(20_000);
    let interrupted = 0;
    for (let n = 1; ; n++) {
      // Stop a write for good before its n-th operation, as a kill would, and look with fresh eyes.
      const folder = join(root, String(n));
      await new CheckpointStore(folder, { keep: 1 }).write(1, filesOf(1), { best: true });
      const writer = new CheckpointStore(folder, { keep: 1 });
      const thaw = freezeBefore(n);
      const outcome = await Promise.race([writer.write(2, filesOf(2), { best: true }), thaw.frozen]);
      thaw.restore();
      const store = new CheckpointStore(folder, { keep: 1 });
      const last = await store.last();
      const best = await store.best();
      expect(last, `last, stopped before operation ${n}`).to.be.a("string");
      expect(best, `best, stopped before operation ${n}`).to.be.a("string");
      for (const name of (await readdir(folder)).filter((entry) => entry.startsWith("step-"))) {
        const { step } = await verify(join(folder, name));
        expect(JSON.parse(await readFile(join(folder, name, "state.json"), "utf8"))).to.deep.equal({ step });
      }
      await store.write(3, filesOf(3));
      expect(await store.last()).to.equal(join(folder, "step-000003"));
      if (outcome !== "frozen") break;
      interrupted = n;
    }
    expect(interrupted, "operations that were interrupted").to.be.above(20);
  });

  it("always has a whole last checkpoint after kill -9 at 30 random moments", async function () {
    this.timeout(60_000);
    const script = join(root, "writer.mjs");
    await compileInto(root);
    await writeFile(
      script,
      `
      import { writeFile } from "node:fs/promises";
      import { CheckpointStore } from "./checkpoint/store.js";
      const store = new CheckpointStore(process.argv[2], { keep: 1 });
      const last = await store.last();
      for (let step = last === undefined ? 1 : Number(last.match(/step-(\\d+)/)[1]) + 1; ; step++) {
        await store.write(step, {
          "model.bin": (path) => writeFile(path, Buffer.alloc(100_000, step)),
          "state.json": (path) => writeFile(path, JSON.stringify({ step })),
        }, { best: step % 5 === 0 });
        console.log(step);
      }`,
    );
    // Each lane kills and resumes in one folder, so that every child also meets what the killed ones left.
    const lane = async (folder: string, kills: number) => {
      let reached = 0;
      for (let kill = 0; kill < kills; kill++) {
        const child = spawn(process.execPath, [script, folder], { stdio: ["ignore", "pipe", "inherit"] });
        let printed = "";
        child.stdout.on("data", (text) => {
          printed += String(text);
        });
        await Promise.race([once(child.stdout, "data"), once(child, "exit")]);
        expect(child.exitCode, "the writer ended by itself").to.equal(null);
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 100));
        child.kill("SIGKILL");
        await once(child, "exit");
        const store = new CheckpointStore(folder);
        const { step } = await verify((await store.last())!);
        expect(step, "a write that returned was lost").to.be.at.least(Number(printed.trim().split("\n").at(-1)));
        expect(step).to.be.above(reached);
        reached = step;
        for (const checkpoint of await store.list()) await verify(checkpoint.folder);
      }
    };
    await Promise.all([lane(join(root, "a"), 15), lane(join(root, "b"), 15)]);
  });
});

/** Compiles what the store needs, so that thirty children start without a TypeScript loader. */
async function compileInto(folder: string): Promise<void> {
  await writeFile(join(folder, "package.json"), '{"type":"module"}');
  const rooms = ["files", "checkpoint"];
  const sources = ["errors.ts", "io-error.ts", "old-names.ts"];
  for (const room of rooms) {
    await mkdir(join(folder, room));
    const names = (await readdir(join(LIB, room))).filter((name) => name.endsWith(".ts"));
    sources.push(...names.map((name) => `${room}/${name}`));
  }
  for (const source of sources) {
    const { outputText } = ts.transpileModule(await readFile(join(LIB, source), "utf8"), {
      compilerOptions: {
        module: ts.ModuleKind.ESNext,
        target: ts.ScriptTarget.ES2022,
        rewriteRelativeImportExtensions: true,
      },
    });
    await writeFile(join(folder, source.replace(/ts$/, "js")), outputText);
  }
}

/** Makes the n-th file operation from now on, and all after it, never happen. */
function freezeBefore(n: number): { frozen: Promise<"frozen">; restore: () => void } {
  const patched = ["mkdir", "open", "writeFile", "rename", "rm", "readdir", "stat", "readFile"] as const;
  const api = fs.promises as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
  const originals = patched.map((name) => [name, api[name]!] as const);
  let count = 0;
  let freeze: (value: "frozen") => void;
  const frozen = new Promise<"frozen">((resolve) => {
    freeze = resolve;
  });
  for (const [name, original] of originals) {
    api[name] = (...args) => {
      if (++count < n) return original(...args);
      freeze("frozen");
      return new Promise(() => undefined);
    };
  }
  syncBuiltinESMExports();
  return {
    frozen,
    restore() {
      for (const [name, original] of originals) api[name] = original;
      syncBuiltinESMExports();
    },
  };
}
