/**
 * What built binaries ask of the machine they are loaded on, read by `readelf`, and whether that is within the limits.
 *   node scripts/check-symbols.mjs [--environment NAME] [--stripped] [--json] [FILE...]
 * FILE: a .node or .so; default: all under variants/ and prebuilds/. Exit code 1, in words, for what is over a limit.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { fail, root } from "./dist.mjs";

/**
 * The newest symbol versions a binary may need, by where it was built. What is published is built in manylinux_2_28
 * (AlmaLinux 8 with a newer gcc, whose additions to libstdc++ are linked in) and so runs where LibTorch does, which
 * needs glibc 2.28 itself. What Debian 12's gcc makes of our sources runs on Debian 12, Ubuntu 22.04 and newer, not on
 * RHEL 9: dlopen and threads bind to glibc 2.34, std::condition_variable::wait to the libstdc++ of gcc 12.
 */
export const environments = {
  manylinux_2_28: { GLIBC: "2.28", GLIBCXX: "3.4.24", CXXABI: "1.3.11" },
  "debian-12": { GLIBC: "2.34", GLIBCXX: "3.4.30", CXXABI: "1.3.13" },
};

const system = [
  "libc.so.6",
  "libm.so.6",
  "libdl.so.2",
  "libpthread.so.0",
  "librt.so.1",
  "ld-linux-x86-64.so.2",
  "libgcc_s.so.1",
  "libstdc++.so.6",
];
const libtorch = ["libtorch.so", "libtorch_cpu.so", "libc10.so"];
const cuda = ["libtorch_cuda.so", "libc10_cuda.so", "libcudart.so.12", "libcudart.so.13"];

/** What each of ours may be linked with, and its size in bytes: more means that something was linked in by mistake. */
const ours = {
  "loader.node": { needed: system, bytes: 64 << 10 },
  "memformer.node": { needed: [...system, ...libtorch], bytes: 8 << 20 },
  "libmemformer_cuda.so": { needed: [...system, ...libtorch, ...cuda], bytes: 64 << 20 },
};

/** Facts of one binary. @throws Error, in a sentence, for what is no ELF file or where there is no readelf. */
export function inspectBinary(path) {
  const text = readelf(path);
  const listed = (pattern) => [...text.matchAll(pattern)].map(([, name]) => name);
  const needs = text.slice(text.indexOf("Version needs section"));
  const versions = text.includes("Version needs section")
    ? [...needs.matchAll(/Name: (GLIBC|GLIBCXX|CXXABI)_([\d.]+)/g)]
    : [];
  const newest = (family) =>
    versions
      .filter(([, name]) => name === family)
      .map(([, , version]) => version)
      .sort(byVersion)
      .at(-1);
  const [rpath] = listed(/\((?:RPATH)\).*\[(.*)\]/g);
  const [runpath] = listed(/\((?:RUNPATH)\).*\[(.*)\]/g);
  return {
    path,
    bytes: statSync(path).size,
    stripped: !/ \.(symtab|debug_info) /.test(text),
    versions: Object.fromEntries(["GLIBC", "GLIBCXX", "CXXABI"].map((family) => [family, newest(family)])),
    soname: listed(/\(SONAME\).*\[(.*)\]/g)[0],
    needed: listed(/\(NEEDED\).*\[(.*)\]/g),
    ...(rpath === undefined ? {} : { rpath }),
    ...(runpath === undefined ? {} : { runpath }),
  };
}

function readelf(path) {
  const options = {
    encoding: "utf8",
    env: { ...process.env, LC_ALL: "C" },
    stdio: ["ignore", "pipe", "pipe"],
    maxBuffer: 1 << 28,
  };
  try {
    const text = execFileSync("readelf", ["-W", "-S", "-d", "-V", path], options);
    if (/\.dynamic /.test(text)) return text;
  } catch (error) {
    if (error.code === "ENOENT")
      throw new Error("readelf is missing: sudo apt-get install -y binutils", { cause: error });
  }
  throw new Error(`${path} is no shared object of ELF.`);
}

function byVersion(a, b) {
  return a.localeCompare(b, "en", { numeric: true });
}

/** One sentence for each limit that `facts` is over. */
export function complaints(facts, environment, { stripped = false } = {}) {
  const found = [];
  for (const [family, most] of Object.entries(environments[environment])) {
    const version = facts.versions[family];
    if (version !== undefined && byVersion(version, most) > 0) {
      found.push(`needs ${family}_${version}; ${environment} has at most ${family}_${most}`);
    }
  }
  for (const tag of ["rpath", "runpath"]) {
    const foreign = (facts[tag] ?? "").split(":").filter((entry) => entry !== "" && !/^\$ORIGIN(\/|$)/.test(entry));
    if (foreign.length > 0)
      found.push(`has ${foreign.join(" and ")} in its ${tag.toUpperCase()}, where only $ORIGIN belongs`);
  }
  // A library that is not ours is one of LibTorch's: it may need what lies beside it.
  const limits = ours[basename(facts.path)] ?? {
    needed: [...system, ...readdirSync(dirname(facts.path))],
    bytes: Infinity,
  };
  const foreign = facts.needed.filter((name) => !limits.needed.includes(name));
  if (foreign.length > 0) found.push(`is linked with ${foreign.join(", ")}, which a user's machine need not have`);
  if (facts.bytes > limits.bytes) found.push(`has ${facts.bytes} bytes, more than ${limits.bytes}`);
  if (stripped && !facts.stripped) found.push("is not stripped");
  return found;
}

/** Every .node and .so below `folder`'s variants/ and prebuilds/. */
export function builtBinaries(folder = root) {
  return ["variants", "prebuilds"].flatMap((name) => {
    const top = join(folder, name);
    if (!existsSync(top)) return [];
    const names = readdirSync(top, { recursive: true }).filter((path) => /\.(node|so)$/.test(path));
    return names.sort().map((path) => join(top, path));
  });
}

/** Inspects `files`; one entry each of facts and complaints. */
export function report(files, environment, options) {
  return files.map((path) => {
    const facts = inspectBinary(path);
    return { ...facts, complaints: complaints(facts, environment, options) };
  });
}

/** The report as text, one paragraph a binary. */
export function asText(entries) {
  return entries
    .map(({ path, bytes, stripped, versions, needed, complaints: found, ...paths }) => {
      const newest = Object.entries(versions).filter(([, version]) => version !== undefined);
      return [
        `${relative(process.cwd(), path)}: ${bytes} bytes, ${stripped ? "stripped" : "not stripped"}`,
        `  needs   ${newest.map(([family, version]) => `${family}_${version}`).join(" ") || "no versioned symbol"}`,
        `  linked  ${needed.join(" ") || "with nothing"}`,
        `  ${paths.runpath === undefined ? "RPATH  " : "RUNPATH"} ${paths.rpath ?? paths.runpath ?? "none"}`,
        ...found.map((sentence) => `  OVER    ${sentence}`),
      ].join("\n");
    })
    .join("\n");
}

function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      environment: { type: "string", default: "manylinux_2_28" },
      stripped: { type: "boolean" },
      json: { type: "boolean" },
    },
  });
  if (environments[values.environment] === undefined) {
    fail(`--environment ${values.environment}: expected ${Object.keys(environments).join(" or ")}.`);
  }
  const files = positionals.length > 0 ? positionals.map((path) => resolve(path)) : builtBinaries();
  if (files.length === 0)
    fail("There is nothing to look at: no file was named, and none is under variants/ or prebuilds/.");
  const entries = report(files, values.environment, { stripped: values.stripped });
  console.log(values.json ? JSON.stringify(entries, null, 2) : asText(entries));
  const over = entries.filter(({ complaints: found }) => found.length > 0);
  if (over.length > 0)
    fail(`${over.length} of ${entries.length} binaries are over the limits of ${values.environment}.`);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    main();
  } catch (error) {
    fail(error.message);
  }
}
