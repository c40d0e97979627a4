/** The page's files, which tsc does not copy, from lib/ to dist/. */
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { root } from "./dist.mjs";

const [from, to] = ["lib", "dist"].map((folder) => join(root, folder, "service/page"));
rmSync(to, { recursive: true, force: true });
cpSync(from, to, { recursive: true });
