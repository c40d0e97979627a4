/**
 * Runs a module's text in a `vm` context of its own, memformer's modules in it too, as Jest does: the language's
 * globals there (Error, Float32Array) are not those of Node's own modules.
 * `node --experimental-vm-modules realm.mjs INDEX TEXT`
 */
import { readFileSync } from "node:fs";
import { isBuiltin } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import vm from "node:vm";

const [, , index, text] = process.argv;
const names = [
  "AbortController",
  "Buffer",
  "DOMException",
  "TextDecoder",
  "TextEncoder",
  "URL",
  "console",
  "performance",
  "process",
  "structuredClone",
];
const context = vm.createContext(Object.fromEntries(names.map((name) => [name, globalThis[name]])));
const modules = new Map();

async function imported(specifier, parent) {
  const outside = isBuiltin(specifier) || !/^[./]|^file:/.test(specifier);
  const url = outside ? specifier : new URL(specifier, parent.identifier).href;
  if (!modules.has(url))
    modules.set(url, outside ? await synthetic(url) : source(url, readFileSync(fileURLToPath(url), "utf8")));
  return modules.get(url);
}

async function synthetic(url) {
  const outer = await import(url);
  return new vm.SyntheticModule(
    Object.keys(outer),
    function () {
      for (const [name, value] of Object.entries(outer)) this.setExport(name, value);
    },
    { identifier: url, context },
  );
}

function source(url, code) {
  return new vm.SourceTextModule(code, {
    identifier: url,
    context,
    initializeImportMeta: (meta) => {
      meta.url = url;
    },
    importModuleDynamically: async (specifier, parent) => {
      const module = await imported(specifier, parent);
      if (module.status === "unlinked") await module.link(imported);
      if (module.status === "linked") await module.evaluate();
      return module;
    },
  });
}

const main = source(
  pathToFileURL(index).href + "?main",
  `import * as lib from ${JSON.stringify(pathToFileURL(index).href)};\n${text}`,
);
await main.link(imported);
await main.evaluate();
