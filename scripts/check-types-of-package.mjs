/**
 * What npm would publish, seen by those who read packages: publint for its fields and files, arethetypeswrong for its
 * types under every way of resolving them. Fails on anything either says, with one exception.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { fail, main, root } from "./dist.mjs";

// The package is ES modules alone, and `require` of them is what its `engines` begin with: this rule knows no such
// Node.
const knowingly = ["cjs-resolves-to-esm"];

await main(async () => {
  const failed = [
    run("publint", "node_modules/publint/src/cli.js", ["--strict", "."]),
    run("attw", "node_modules/@arethetypeswrong/cli/dist/index.js", [
      "--pack",
      ".",
      "--ignore-rules",
      ...knowingly,
      // Without "exports" there is no memformer/service: what resolved so (Node 10) is none of our `engines`.
      "--profile",
      "node16",
      "--format",
      "ascii",
    ]),
  ].filter((name) => name !== undefined);
  if (failed.length > 0) fail(`the package is not as it should be, says ${failed.join(" and ")}; see above`);
});

/** The tool's name if it finds fault. */
function run(name, path, args) {
  console.log(`\n== ${name}`);
  const { status } = spawnSync(process.execPath, [join(root, path), ...args], { cwd: root, stdio: "inherit" });
  return status === 0 ? undefined : name;
}
