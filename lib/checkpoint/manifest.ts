/**
 * `manifest.json`, the last file written into a checkpoint folder: every other file's byte count and SHA-256.
 * A folder without one, or with files of other sizes, is not a whole checkpoint.
 */
import { createHash } from "node:crypto";
import { open, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { MemformerError } from "../errors.ts";
import { withIoErrors } from "../io-error.ts";

export const MANIFEST = "manifest.json";
const FORMAT = "memformer-checkpoint";
const VERSION = 1;

export interface FileFacts {
  readonly bytes: number;
  /** Hexadecimal, lower case. */
  readonly sha256: string;
}

export interface Manifest {
  /** Training steps done when it was written. */
  readonly step: number;
  /**
   * Counts the checkpoints of a store in the order of writing; a run taken back to an earlier step writes smaller
   * steps.
   */
  readonly sequence: number;
  /** Whether it was the best so far when it was written. */
  readonly best: boolean;
  readonly files: Readonly<Record<string, FileFacts>>;
}

/** Hashes the named files of `folder` and writes their manifest beside them; syncing it is the caller's part. */
export async function writeManifest(folder: string, names: string[], facts: Omit<Manifest, "files">): Promise<void> {
  const files: Record<string, FileFacts> = {};
  for (const name of names) files[name] = await digest(join(folder, name));
  await writeFile(
    join(folder, MANIFEST),
    `${JSON.stringify({ format: FORMAT, formatVersion: VERSION, ...facts, files }, null, 2)}\n`,
  );
}

/** Reads and checks a manifest. Throws CHECKPOINT_FORMAT, CHECKPOINT_VERSION, or IO. */
export async function readManifest(folder: string): Promise<Manifest> {
  const path = join(folder, MANIFEST);
  const text = await withIoErrors("read", path, () => readFile(path, "utf8"));
  const fail = (words: string): never => {
    throw new MemformerError("CHECKPOINT_FORMAT", `${path} ${words}`, { details: { path } });
  };
  let value: Record<string, unknown>;
  try {
    value = Object(JSON.parse(text)) as Record<string, unknown>;
  } catch {
    return fail("is not valid JSON");
  }
  if (value["format"] !== FORMAT) {
    return fail(`is not the manifest of a memformer checkpoint (its format is ${JSON.stringify(value["format"])})`);
  }
  if (value["formatVersion"] !== VERSION) {
    throw new MemformerError(
      "CHECKPOINT_VERSION",
      `${path} has format version ${JSON.stringify(value["formatVersion"])}; this memformer reads version ${VERSION}`,
      { details: { path, expected: VERSION, got: value["formatVersion"] } },
    );
  }
  const { step, sequence, best, files } = value;
  if (!isCount(step) || !isCount(sequence) || typeof best !== "boolean") {
    return fail("lacks a valid step, sequence or best");
  }
  if (typeof files !== "object" || files === null) return fail("lacks the list of files");
  for (const [name, facts] of Object.entries(files as Record<string, Partial<FileFacts> | null>)) {
    if (!/^[^./\\\0][^/\\\0]*$/.test(name))
      return fail(`lists ${JSON.stringify(name)}, which is not a plain file name`);
    if (!isCount(facts?.bytes) || typeof facts?.sha256 !== "string") {
      return fail(`lists "${name}" without a byte count and a hash`);
    }
  }
  return { step, sequence, best, files: files as Record<string, FileFacts> };
}

/** The manifest of a folder whose files are all there in their sizes, else undefined. Contents are not read. */
export async function wholeManifest(folder: string): Promise<Manifest | undefined> {
  try {
    const manifest = await readManifest(folder);
    for (const [name, facts] of Object.entries(manifest.files)) {
      const found = await stat(join(folder, name));
      if (!found.isFile() || found.size !== facts.bytes) return undefined;
    }
    return manifest;
  } catch {
    return undefined;
  }
}

/**
 * Checks every byte of a checkpoint folder against its manifest and returns it. Throws CHECKPOINT_FORMAT naming the
 * first file that is missing or differs, CHECKPOINT_VERSION, or IO.
 */
export async function verify(folder: string): Promise<Manifest> {
  const manifest = await readManifest(folder);
  for (const [name, wanted] of Object.entries(manifest.files)) {
    const path = join(folder, name);
    const fail = (words: string): never => {
      throw new MemformerError("CHECKPOINT_FORMAT", `${path} ${words}`, { details: { path, file: name } });
    };
    const found = await stat(path).catch(() => undefined);
    if (!found?.isFile()) return fail("is missing, though the checkpoint's manifest lists it");
    if (found.size !== wanted.bytes) {
      return fail(`has ${found.size} bytes; the checkpoint's manifest says ${wanted.bytes}`);
    }
    const { sha256 } = await digest(path);
    if (sha256 !== wanted.sha256) {
      return fail(`is damaged: its SHA-256 is ${sha256}; the checkpoint's manifest says ${wanted.sha256}`);
    }
  }
  return manifest;
}

async function digest(path: string): Promise<FileFacts> {
  return await withIoErrors("read", path, async () => {
    const handle = await open(path);
    try {
      const hash = createHash("sha256");
      const block = new Uint8Array(1 << 20);
      let bytes = 0;
      for (;;) {
        const { bytesRead } = await handle.read(block, 0, block.length, bytes);
        if (bytesRead === 0) return { bytes, sha256: hash.digest("hex") };
        hash.update(block.subarray(0, bytesRead));
        bytes += bytesRead;
      }
    } finally {
      await handle.close();
    }
  });
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
