// Which files of a folder are text of the user's, and which are litter of programs.
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { MemformerError } from "../errors.ts";

/** What inputs stand for. */
export interface TextFiles {
  /** The files to read: those named, and of folders the readable ones, sorted by name. */
  readonly files: readonly string[];
  /** Hidden, backup and system names in folders, each counted once: what lies in a hidden folder is not looked at. */
  readonly litter: number;
  /** Files in folders whose names do not end as text's do. */
  readonly others: number;
}

const readable = /\.(txt|text|md|jsonl)(\.gz)?$/i;

/**
 * Names that programs leave beside the user's files: hidden ones (`.git`, `.ipynb_checkpoints`, macOS's `._x`),
 * packages and caches, backups and locks of editors and offices, and what systems put into folders.
 */
const litter =
  /^\.|^(node_modules|__pycache__|__MACOSX|lost\+found|Thumbs\.db|ehthumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information)$|~$|^~\$|^#.*#$|^Icon\r$/i;

/** Whether a name in a folder is litter of a program's rather than a file of the user's. */
export function isLitter(name: string): boolean {
  return litter.test(name);
}

/**
 * The files that inputs stand for: files themselves, folders by what readable text lies in them and below. Links to
 * files are followed, links to folders are not.
 * @throws MemformerError `IO` for what cannot be read, `DATA` for a folder without text.
 */
export async function textFiles(inputs: string | readonly string[]): Promise<TextFiles> {
  const files: string[] = [];
  const passed = { litter: 0, others: 0 };
  for (const input of typeof inputs === "string" ? [inputs] : inputs) {
    if (!(await isFolder(input))) {
      files.push(input);
      continue;
    }
    const names: string[] = [];
    await walk(input, "", names, passed);
    if (names.length === 0) {
      throw new MemformerError(
        "DATA",
        `The folder ${input} holds no .txt, .md or .jsonl file${inWords(passed) && ` (${inWords(passed)})`}.`,
        { details: { path: input, ...passed } },
      );
    }
    files.push(...names.sort().map((name) => join(input, name)));
  }
  return { files, ...passed };
}

/** `3 hidden or backup names and 2 files of other kinds passed over`; empty if there are none. */
export function inWords({ litter: names, others }: Pick<TextFiles, "litter" | "others">): string {
  const parts = [
    ...(names > 0 ? [`${names} hidden or backup name${names === 1 ? "" : "s"}`] : []),
    ...(others > 0 ? [`${others} file${others === 1 ? "" : "s"} of other kinds`] : []),
  ];
  return parts.length === 0 ? "" : `${parts.join(" and ")} passed over`;
}

async function walk(
  root: string,
  below: string,
  names: string[],
  passed: { litter: number; others: number },
): Promise<void> {
  const entries = await reading(root, () => readdir(join(root, below), { withFileTypes: true }));
  for (const entry of entries) {
    const name = join(below, entry.name);
    if (isLitter(entry.name)) passed.litter++;
    else if (entry.isDirectory()) await walk(root, name, names, passed);
    else if (!readable.test(name)) passed.others++;
    else if (!entry.isSymbolicLink() || !(await isFolder(join(root, name)))) names.push(name);
  }
}

async function isFolder(path: string): Promise<boolean> {
  return (await reading(path, () => stat(path))).isDirectory();
}

async function reading<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new MemformerError("IO", `${path} cannot be read: ${(cause as Error).message}`, { cause, details: { path } });
  }
}
