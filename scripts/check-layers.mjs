/**
 * Fails when an import goes up, sideways or in a circle. Usage: node scripts/check-layers.mjs [FOLDER]
 *   TypeScript: rooms of lib stand on floors, and examples, bench and test above them; only lib/native touches the
 *               addon, and only lib/cli imports lib/cli.
 *   C++:        napi -> engine -> nn -> ops -> core; an operator sees itself, ops/common, core and what the table of
 *               edges grants it; a .cu nothing of torch.
 * scripts/layers/rooms.mjs has the tables.
 */
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { checkCpp } from "./layers/cpp.mjs";
import { checkTypeScript } from "./layers/typescript.mjs";

const root = resolve(process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), ".."));
let offences = 0;
const offend = (path, line, sentence) => {
  console.error(`${path}:${line}: ${sentence}`);
  offences += 1;
};

checkTypeScript(root, offend);
checkCpp(root, offend);
if (offences > 0) process.exitCode = 1;
else console.log("layers: imports go down only");
