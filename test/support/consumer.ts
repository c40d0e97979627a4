/** A project that has memformer installed, in a folder of its own: what a user's `node_modules` looks like. */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));

export interface Output {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class Consumer {
  private constructor(readonly folder: string) {}

  /** Packages of ours that the project has too, beside memformer. */
  static async make(also: readonly string[] = []): Promise<Consumer> {
    const folder = await mkdtemp(join(tmpdir(), "memformer-consumer-"));
    const modules = join(folder, "node_modules");
    await mkdir(modules);
    await symlink(root, join(modules, "memformer"));
    for (const name of also) {
      await mkdir(dirname(join(modules, name)), { recursive: true });
      await symlink(join(root, "node_modules", name), join(modules, name));
    }
    return new Consumer(folder);
  }

  async write(name: string, text: string): Promise<string> {
    const path = join(this.folder, name);
    await writeFile(path, text);
    return path;
  }

  /** Runs `node` (a binary) with these arguments in the project. */
  async run(node: string, args: readonly string[]): Promise<Output> {
    return new Promise((resolve) => {
      execFile(node, args, { cwd: this.folder, encoding: "utf8" }, (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
      });
    });
  }

  async remove(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}
