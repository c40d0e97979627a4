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
      "test/a.spec.ts": 'import { x } from "../lib/gradients/mrbp.ts";\nimport { s } from "./support/s.ts";\n',
      "test/support/s.ts":
        'import { server } from "../../examples/server.ts";\nimport { b } from "../../bench/b.ts";\n',
      "test/cli.spec.ts": 'import { train } from "../lib/cli/train.ts";\n',
      "examples/server.ts": 'import { x } from "../lib/index.ts";\n',
      "lib/service/index.ts": "export const x = 1;\n",
      "examples/service.ts": 'import { x } from "../lib/service/index.ts";\n',
      "bench/b.ts": 'import { x } from "../lib/data/x.ts";\nimport { server } from "../examples/server.ts";\n',
      "lib/gradients/mrbp.ts":
        'import { addon } from "../native/addon.ts";\nimport {\n  log,\n} from "../log/lines.ts";\n',
      "lib/native/addon.ts": `const file = "x";\n${loading}("./memformer.node");\n`,
      "lib/model/memformer.ts": 'import { S } from "../generate/session.ts";\nimport { files } from "./files.ts";\n',
      "lib/generate/session.ts":
        'import type { State } from "../model/recurrence.ts";\n// from "../model/memformer.ts"\n',
      "lib/cli/main.ts": 'import { register } from "./train.ts";\nimport { settings } from "../run/settings.ts";\n',
      "native/napi/a.cpp": '#include "engine/b.h"\n#include "core/c.h"\n#include <napi.h>\n',
      "native/nn/a.cpp": '#include "ops/x/x.h"\n#include <ATen/ATen.h>\n',
      "native/ops/x/x.cpp": '#include "ops/x/x.h"\n#include "ops/common/y.h"\n#include "core/c.h"\n',
      "native/ops/x/x.cu": '#include "ops/x/x.cuh"\n#include <cuda_runtime.h>\n',
      "native/ops/dropout/dropout.cpp":
        'library.def("dropout(Tensor x) -> Tensor");\nlibrary.def(\n    "mask(Tensor x) -> Tensor");',
      "native/ops/gelu_dropout/g.cpp": 'static const auto op = find_op<Tensor(const Tensor&)>("memformer::mask");\n',
      "native/loader/l.cpp": "#include <node_api.h>\n",
    });
    expect(result).to.deep.equal({ status: 0, offences: [] });
  });

  const table = "(scripts/layers/rooms.mjs)";
  const offences: [path: string, content: string, sentence: string][] = [
    ["lib/run/a.ts", '\nimport { x } from "../../test/x.ts";', "2: lib may not import ../../test/x.ts"],
    ["lib/run/a.ts", 'import("../cli/main.ts");', "1: only lib/cli may import ../cli/main.ts"],
    ["lib/native/a.ts", 'export { x } from "../cli/x.ts";', "1: only lib/cli may import ../cli/x.ts"],
    ["bench/a.ts", 'import { x } from "../lib/cli/x.ts";', "1: only lib/cli may import ../lib/cli/x.ts"],
    [
      "lib/data/a.ts",
      'import type { X } from "../native/x.ts";',
      "1: lib/data may not import ../native/x.ts: it works without the addon",
    ],
    [
      "lib/import/a.ts",
      'import "../engine/x.ts";',
      "1: lib/import may not import ../engine/x.ts: it works without the addon",
    ],
    [
      "lib/engine/a.ts",
      'import {\n  x,\n} from "../model/x.ts";',
      `3: lib/engine may not import ../model/x.ts: imports go down only ${table}`,
    ],
    [
      "lib/data/b.ts",
      'import "../log/x.ts";',
      `1: lib/data may not import ../log/x.ts: they stand side by side ${table}`,
    ],
    [
      "lib/generate/a.ts",
      'import type { M } from "../model/memformer.ts";',
      `1: lib/generate may not import ../model/memformer.ts: imports go down only ${table}`,
    ],
    [
      "lib/train/a.ts",
      'import "../index.ts";',
      `1: lib/train may not import ../index.ts: imports go down only ${table}`,
    ],
    ["lib/a.ts", "", "1: stands in no room of scripts/layers/rooms.mjs"],
    ["lib/other/a.ts", "", "1: stands in no room of scripts/layers/rooms.mjs"],
    [
      "examples/a.ts",
      'import { x } from "../lib/data/x.ts";',
      "1: an example imports what a user has, lib/index.ts, not ../lib/data/x.ts",
    ],
    [
      "examples/b.ts",
      'import { x } from "../bench/x.ts";',
      `1: examples may not import ../bench/x.ts: imports go down only ${table}`,
    ],
    [
      "bench/b.ts",
      'import { x } from "../test/x.ts";',
      `1: bench may not import ../test/x.ts: imports go down only ${table}`,
    ],
    ["bench/c.ts", `${loading}("../out/memformer.node");`, "1: only lib/native may load ../out/memformer.node"],
    ["lib/run/b.ts", `process.${"dlopen"}(module, path);`, "1: only lib/native may load an addon"],
    ["native/core/a.h", '#include "ops/x/x.h"', "1: native/core may not include ops/x/x.h: imports go down only"],
    [
      "native/nn/a.cpp",
      '// why\n#include "engine/e.h"',
      "2: native/nn may not include engine/e.h: imports go down only",
    ],
    ["native/engine/a.cpp", '#include "napi/n.h"', "1: native/engine may not include napi/n.h: imports go down only"],
    ["native/ops/x/a.cpp", '#include "nn/n.h"', "1: native/ops may not include nn/n.h: imports go down only"],
    ["native/ops/x/b.cpp", '#include "ops/y/y.h"', "1: operator x may not include operator y"],
    ["native/ops/common/a.h", '#include "ops/y/y.h"', "1: operator common may not include operator y"],
    [
      "native/ops/y/y.cpp",
      'library.def("z(Tensor x) -> Tensor");\n#include "ops/x/x.h"',
      "2: operator y may not include operator x",
    ],
    [
      "native/ops/x/c.cpp",
      'const auto op =\n    find_op<Tensor(const Tensor&)>("memformer::z");',
      "2: operator x may not call memformer::z of operator y",
    ],
    ["native/ops/x/d.cpp", 'find_op<F>("memformer::w");', "1: no operator defines memformer::w"],
    [
      "native/ops/x/e.cpp",
      'constexpr Registered<"memformer::z", Tensor(const Tensor&)> z;',
      "1: operator x may not call memformer::z of operator y",
    ],
    [
      "native/ops/x/f.cpp",
      'constexpr Registered<"memformer::v", F> v;',
      "1: operator x may not call memformer::v of operator y",
    ],
    ["native/core/b.h", 'find_op<F>("memformer::z");', "1: native/core may not call memformer::z"],
    ["native/ops/x/x.cu", "#include <ATen/ATen.h>", "1: a .cu or .cuh may not include ATen/ATen.h"],
    ["native/ops/x/x.cuh", "#include <c10/macros/Macros.h>", "1: a .cu or .cuh may not include c10/macros/Macros.h"],
    ["native/engine/b.cpp", "#include <napi.h>", "1: only native/napi and native/loader may include napi.h"],
    ["native/other/a.cpp", "", "1: stands in no layer of scripts/layers/rooms.mjs"],
  ];
  for (const [path, content, sentence] of offences) {
    it(`finds ${path}: ${sentence.slice(3)}`, () => {
      const definition = {
        "native/ops/y/definition.cpp":
          'library.def("z(Tensor x) -> Tensor");\ndefine<&v>(\n    library, "v(Tensor x) -> Tensor");',
      };
      const result = check({ ...definition, [path]: content });
      expect(result).to.deep.equal({ status: 1, offences: [`${path}:${sentence}`] });
    });
  }

  it("finds circles of imports and of includes", () => {
    const result = check({
      "lib/data/a.ts": 'import { b } from "./b.ts";\n',
      "lib/data/b.ts": 'import type { c } from "./c.ts";\n',
      "lib/data/c.ts": 'export { a } from "./a.ts";\n',
      "lib/data/d.ts": 'import { a } from "./a.ts";\n',
      "native/nn/a.h": '#include "nn/b.h"\n',
      "native/nn/b.h": '#include "nn/a.h"\n',
    });
    expect(result.offences).to.deep.equal([
      "lib/data/a.ts:1: a circle of imports: lib/data/a.ts -> lib/data/b.ts -> lib/data/c.ts -> lib/data/a.ts",
      "native/nn/a.h:1: a circle of includes: native/nn/a.h -> native/nn/b.h -> native/nn/a.h",
    ]);
  });

  it("finds an edge between operators that nothing uses any more", () => {
    const result = check({ "native/ops/gelu_dropout/g.cpp": "" });
    expect(result.offences).to.deep.equal([
      "scripts/layers/rooms.mjs:1: operator gelu_dropout does not use operator dropout: take the edge out",
    ]);
  });

  it("sees through includes written relative to the file", () => {
    const result = check({ "native/nn/deep/n.h": "", "native/ops/x/x.cpp": '#include "../../nn/deep/n.h"' });
    expect(result.status).to.equal(1);
  });
});
