import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { scratchFolder, writeFiles } from "./support/fake-libtorch.ts";

const script = fileURLToPath(new URL("../scripts/check-layers.mjs", import.meta.url));

/** Not written out, so that the check finds nothing in this file. */
const loading = "require";

describe("the layer check", () => {
  let folder: string;
  beforeEach(() => (folder = scratchFolder()));
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  function check(files: Record<string, string>): { status: number | null; offences: string[] } {
    const run = spawnSync(process.execPath, [script, writeFiles(folder, files)], { encoding: "utf8" });
    return {
      status: run.status,
      offences: run.stderr
        .trim()
        .split("\n")
        .filter((line) => line !== ""),
    };
  }

  it("is content with imports that go down", () => {
    const result = check({
      "test/a.spec.ts": 'import { x } from "../lib/gradients/mrbp.ts";\n',
      "lib/gradients/mrbp.ts": 'import { addon } from "./native/addon.ts";\nimport { log } from "./log/lines.ts";\n',
      "lib/native/addon.ts": `const file = "x";\n${loading}("./memformer.node");\n`,
      "lib/cli/main.ts": 'import { register } from "./train.ts";\n',
      "native/napi/a.cpp": '#include "engine/b.h"\n#include "core/c.h"\n#include <napi.h>\n',
      "native/nn/a.cpp": '#include "ops/x/x.h"\n#include <ATen/ATen.h>\n',
      "native/ops/x/x.cpp": '#include "ops/x/x.h"\n#include "core/c.h"\n',
      "native/ops/x/x.cu": '#include "ops/x/x.cuh"\n#include <cuda_runtime.h>\n',
      "native/loader/l.cpp": "#include <node_api.h>\n",
    });
    expect(result).to.deep.equal({ status: 0, offences: [] });
  });

  const offences: [path: string, content: string, sentence: string][] = [
    ["lib/a.ts", '\nimport { x } from "../test/x.ts";', "lib/a.ts:2: lib may not import ../test/x.ts"],
    ["lib/a.ts", 'import("./cli/main.ts");', "lib/a.ts:1: only lib/cli may import ./cli/main.ts"],
    ["lib/native/a.ts", 'export { x } from "../cli/x.ts";', "lib/native/a.ts:1: only lib/cli may import ../cli/x.ts"],
    [
      "lib/data/a.ts",
      'import type { X } from "../native/x.ts";',
      "lib/data/a.ts:1: lib/data may not import ../native/x.ts: it works without the addon",
    ],
    [
      "lib/log/a.ts",
      'import "../native/x.ts";',
      "lib/log/a.ts:1: lib/log may not import ../native/x.ts: it works without the addon",
    ],
    ["lib/checkpoint/a.ts", 'import "../cli/x.ts";', "lib/checkpoint/a.ts:1: only lib/cli may import ../cli/x.ts"],
    [
      "bench/a.ts",
      `${loading}("../out/memformer.node");`,
      "bench/a.ts:1: only lib/native may load ../out/memformer.node",
    ],
    ["lib/a.ts", `process.${"dlopen"}(module, path);`, "lib/a.ts:1: only lib/native may load an addon"],
    [
      "native/core/a.h",
      '#include "ops/x/x.h"',
      "native/core/a.h:1: native/core may not include ops/x/x.h: imports go down only",
    ],
    [
      "native/nn/a.cpp",
      '// why\n#include "engine/e.h"',
      "native/nn/a.cpp:2: native/nn may not include engine/e.h: imports go down only",
    ],
    [
      "native/engine/a.cpp",
      '#include "napi/n.h"',
      "native/engine/a.cpp:1: native/engine may not include napi/n.h: imports go down only",
    ],
    [
      "native/ops/x/x.cpp",
      '#include "nn/n.h"',
      "native/ops/x/x.cpp:1: native/ops may not include nn/n.h: imports go down only",
    ],
    ["native/ops/x/x.cpp", '#include "ops/y/y.h"', "native/ops/x/x.cpp:1: operator x may not include operator y"],
    ["native/ops/x/x.cu", "#include <ATen/ATen.h>", "native/ops/x/x.cu:1: a .cu or .cuh may not include ATen/ATen.h"],
    [
      "native/ops/x/x.cuh",
      "#include <c10/macros/Macros.h>",
      "native/ops/x/x.cuh:1: a .cu or .cuh may not include c10/macros/Macros.h",
    ],
    [
      "native/engine/a.cpp",
      "#include <napi.h>",
      "native/engine/a.cpp:1: only native/napi and native/loader may include napi.h",
    ],
  ];
  it("finds each offence, and names its file and line", () => {
    const tree: Record<string, string> = {};
    const expected = offences.map(([path, content, sentence], index) => {
      const own = path.replace(/[^/]+(?=\.\w+$)/, `file${index}`);
      tree[own] = content;
      return sentence.replace(path, own);
    });
    const { status, offences: found } = check(tree);
    expect(found.sort()).to.deep.equal(expected.sort());
    expect(status).to.equal(1);
  });

  it("sees through includes written relative to the file", () => {
    const result = check({ "native/nn/deep/n.h": "", "native/ops/x/x.cpp": '#include "../../nn/deep/n.h"' });
    expect(result.status).to.equal(1);
  });
});
