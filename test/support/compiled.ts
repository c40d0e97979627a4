/**
 * What other processes of the tests load, as JavaScript, for TypeScript takes longer to start. Where dist/ is older
 * than lib/ they load TypeScript all the same.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import type TypeScript from "typescript";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url)),
  dist = join(root, "dist"),
  require = createRequire(import.meta.url);

/** When the file of a folder was written that was written last, in milliseconds. */
function lastWrite(folder: string): number {
  return Math.max(
    ...readdirSync(folder, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile())
      .map((entry) => statSync(join(entry.parentPath, entry.name)).mtimeMs),
  );
}

/** `npm run build:ts` writes all of dist/. */
export const isCompiled = existsSync(join(dist, "index.js")) && lastWrite(dist) >= lastWrite(join(root, "lib"));

/** Node's flags for what {@link moduleOf} and {@link programOf} name. */
export const loader: readonly string[] = isCompiled ? [] : ["--import", pathToFileURL(require.resolve("tsx")).href];

/** The file of a module of lib/: `cli/main`. */
export function moduleOf(name: string): string {
  return isCompiled ? join(dist, `${name}.js`) : join(root, "lib", `${name}.ts`);
}

/** A program of this folder, `rank-process`, which imports its neighbours, lib/ and packages. */
export function programOf(name: string): string {
  const source = fileURLToPath(new URL(`${name}.ts`, import.meta.url));
  return isCompiled ? transpiled(source) : source;
}

/** Sources that this process has written to out/. */
const written = new Set<string>();

/** Writes the program, and what it imports of its folder, to out/, once. */
function transpiled(source: string): string {
  const file = join(root, "out", "test", "support", basename(source).replace(/ts$/, "js"));
  if (written.has(source)) return file;
  written.add(source);
  const ts = require("typescript") as typeof TypeScript;
  const { outputText } = ts.transpileModule(readFileSync(source, "utf8"), {
    compilerOptions: {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      rewriteRelativeImportExtensions: true,
    },
  });
  const text = outputText.replaceAll('"../../lib/', `"${pathToFileURL(dist).href}/`);
  for (const [, neighbour] of outputText.matchAll(/from "\.\/([\w.-]+)\.js"/g))
    transpiled(join(dirname(source), `${neighbour}.ts`));
  mkdirSync(dirname(file), { recursive: true });
  const own = `${file}.${process.pid}`; // several processes of the tests write it
  writeFileSync(own, text);
  renameSync(own, file);
  return file;
}
