import { expect } from "chai";
import { basename, join } from "node:path";
import ts from "typescript";
import { Consumer } from "./support/consumer.ts";
import { nodes } from "./support/nodes.ts";

/** Native files that a process has mapped, as an expression. */
const mapped =
  '[...require("node:fs").readFileSync("/proc/self/maps", "utf8").matchAll(/libtorch\\w*\\.so|\\w+\\.node$/gm)].map(String)';

describe("the package in a project that installed it", function () {
  this.timeout(120_000);
  let project: Consumer;
  before(async () => {
    project = await Consumer.make(["@types/node"]);
    await project.write("package.json", '{ "private": true }');
    await project.write(
      "both.cjs",
      `
      const required = require("memformer");
      import("memformer").then((imported) => {
        const names = Object.keys(imported).sort();
        const same = names.filter((name) => name !== "module.exports" && required[name] === imported[name]);
        console.log(JSON.stringify({ names, same, mapped: ${mapped} }));
      });`,
    );
    await project.write(
      "used.cjs",
      `
      const { configureRuntime } = require("memformer");
      configureRuntime({ threads: 1 });
      console.log(JSON.stringify(${mapped}));`,
    );
  });
  after(async () => project.remove());

  for (const { path: node, version } of nodes()) {
    // `require` refuses a graph with a top-level await, so this also says that there is none.
    it(`gives require and import the same classes under Node ${version}, and loads nothing native`, async () => {
      const { code, stdout, stderr } = await project.run(node, ["both.cjs"]);
      expect(code, stderr).to.equal(0);
      // Early ones of Node 22 say that requiring ES modules is new.
      expect(stderr === "" || /^\(node:\d+\) ExperimentalWarning: .*loading ES Module/.test(stderr), stderr).to.be.true;
      const { names, same, mapped } = JSON.parse(stdout) as { names: string[]; same: string[]; mapped: string[] };
      expect(names).to.include.members(["Memformer", "Tensor", "Trainer", "Session", "MemformerError"]);
      expect(same).to.deep.equal(names.filter((name) => name !== "module.exports"));
      expect(mapped).to.deep.equal([]);
    });

    it(`loads the native core when it is used under Node ${version}`, async () => {
      const { code, stdout, stderr } = await project.run(node, ["used.cjs"]);
      expect(code, stderr).to.equal(0);
      expect(JSON.parse(stdout)).to.include.members(["libtorch_cpu.so", "memformer.node"]);
    });
  }
});

describe("the package's types in a project that installed it", function () {
  this.timeout(120_000);
  const program = `
    import { Memformer, MemformerError, type TrainOptions } from "memformer";
    const options: TrainOptions = { steps: 1 };
    export async function sizes(): Promise<number> {
      const model: Memformer = await Memformer.create({ preset: "tiny" });
      return model.parameterCount + (options.steps ?? 0);
    }
    export const failed = (error: unknown): boolean => error instanceof MemformerError;
    // @ts-expect-error: the types are there and say no
    export const wrong = Memformer.create({ preset: "huge" });`;
  let project: Consumer;
  before(async () => {
    project = await Consumer.make(["@types/node", "undici-types", "zod"]);
    await project.write("esm.mts", program);
    await project.write("cjs.cts", program);
    // What CommonJS can say where TypeScript holds that it cannot require ES modules.
    await project.write(
      "lazy.cts",
      `
      import type { Memformer } from "memformer" with { "resolution-mode": "import" };
      export async function sizes(): Promise<number> {
        const model: Memformer = await (await import("memformer")).Memformer.create({ preset: "tiny" });
        return model.parameterCount;
      }`,
    );
  });
  after(async () => project.remove());

  const { ModuleKind, ModuleResolutionKind } = ts;
  const ways = [
    ["node16", ModuleKind.Node16, ModuleResolutionKind.Node16],
    ["nodenext", ModuleKind.NodeNext, ModuleResolutionKind.NodeNext],
    ["bundler", ModuleKind.Preserve, ModuleResolutionKind.Bundler],
  ] as const;
  for (const [name, module, moduleResolution] of ways) {
    it(`resolve under ${name}, from ES modules and from CommonJS`, () => {
      const said = complaints(project.folder, ["esm.mts", "cjs.cts", "lazy.cts"], { module, moduleResolution });
      // node16 knows no require of ES modules, and refuses the static import in CommonJS.
      expect(said).to.deep.equal(name === "node16" ? ["cjs.cts: TS1479"] : []);
    });
  }
});

/** What TypeScript says against these files and against our declarations, which it reads on their behalf. */
function complaints(folder: string, files: readonly string[], how: ts.CompilerOptions): string[] {
  const options: ts.CompilerOptions = {
    ...how,
    strict: true,
    noEmit: true,
    target: ts.ScriptTarget.ES2022,
    lib: ["lib.es2023.d.ts", "lib.esnext.disposable.d.ts"],
    types: ["node"],
    typeRoots: [join(folder, "node_modules/@types")],
  };
  const program = ts.createProgram(
    files.map((file) => join(folder, file)),
    options,
  );
  const declarations = program.getSourceFiles().filter(({ fileName }) => fileName.includes("/dist/"));
  expect(declarations.map(({ fileName }) => basename(fileName))).to.include("index.d.ts");
  const checked = [...program.getRootFileNames().map((name) => program.getSourceFile(name)!), ...declarations];
  return [
    ...program.getOptionsDiagnostics(),
    ...checked.flatMap((file) => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)]),
  ].map(({ file, code }) => `${basename(file?.fileName ?? "")}: TS${code}`);
}
