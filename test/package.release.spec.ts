import { expect } from "chai";
import { execFileSync, spawnSync } from "node:child_process";
import { appendFileSync, chmodSync, copyFileSync, existsSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { scratchFolder, writeFiles } from "./support/fake-libtorch.ts";

const repository = fileURLToPath(new URL("../", import.meta.url));
const platform = "packages/libtorch-cpu-linux-x64";

/** Notes how it was called. */
const note =
  'import { appendFileSync } from "node:fs"; appendFileSync("calls", process.argv.slice(1).map((a) => a.split("/").at(-1)).join(" ") + "\\n");\n';

/** npm, but for its scripts, which are noted. */
const npm =
  '#!/bin/sh\nif [ "$1" = run ]; then [ "$3" = build:ts ] && mkdir dist && touch dist/index.js; echo "npm $3" >> calls; [ "$3" != "$FAILING" ]; exit; fi\nexec "$NPM" "$@"\n';

describe("a release", () => {
  let folder: string;
  let failing: string;
  beforeEach(() => {
    failing = "";
    folder = join(scratchFolder(), "repository");
    const manifest = { name: "memformer", version: "0.1.0", type: "module", files: ["dist"] };
    const platformManifest = { name: "@memformer/libtorch-cpu-linux-x64", version: "0.1.0" };
    const lock = { name: "memformer", version: "0.1.0", packages: { "": { name: "memformer", version: "0.1.0" } } };
    writeFiles(folder, {
      "package.json": JSON.stringify(manifest, null, 2),
      "package-lock.json": JSON.stringify(lock, null, 2),
      [`${platform}/package.json`]: JSON.stringify(platformManifest, null, 2),
      "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-01-31\n\n### Added\n\n- The model.\n",
      "bin/npm": npm,
      "dist/stale.js": "",
      ".gitignore": "out/\ndist/\nvariants/\ncalls\nnode_modules\n",
      "scripts/check-package.mjs": note,
      "scripts/check-tarballs.mjs": note,
      "scripts/prebuild.mjs": `${note}
        import { cpSync } from "node:fs"; cpSync("binary", "variants/torch-2.13/prebuilds/linux-x64/memformer.node");`,
      "scripts/build-platform-package.mjs": `${note}
        import { mkdirSync, writeFileSync } from "node:fs";
        mkdirSync("out/release", { recursive: true }); writeFileSync("out/release/memformer-libtorch-cpu-linux-x64-" + process.argv[3] + ".tgz", "");`,
      "scripts/publish.mjs": note,
    });
    for (const name of ["release.mjs", "changelog.mjs", "check-symbols.mjs", "dist.mjs"]) {
      copyFileSync(join(repository, "scripts", name), join(folder, "scripts", name));
    }
    writeFiles(folder, { "source.c": "int x;" });
    execFileSync("cc", ["-shared", "-fPIC", "-nostdlib", join(folder, "source.c"), "-o", join(folder, "binary")]);
    symlinkSync(join(repository, "node_modules"), join(folder, "node_modules"));
    chmodSync(join(folder, "bin/npm"), 0o755);
    git("init", "-q");
    commit();
  });
  afterEach(() => rmSync(join(folder, ".."), { recursive: true, force: true }));

  function git(...args: string[]): string {
    return execFileSync("git", ["-c", "user.name=a", "-c", "user.email=a@b", ...args], {
      cwd: folder,
      encoding: "utf8",
    }).trim();
  }
  function commit(): void {
    git("add", "-A");
    git("commit", "-qm", "State");
  }
  function release(...args: string[]): { status: number | null; stdout: string; stderr: string } {
    const NPM = execFileSync("/bin/sh", ["-c", "command -v npm"], { encoding: "utf8" }).trim();
    const env = {
      ...process.env,
      NPM,
      FAILING: failing,
      PATH: `${join(folder, "bin")}:${process.env["PATH"]}`,
      GIT_AUTHOR_NAME: "a",
      GIT_AUTHOR_EMAIL: "a@b",
      GIT_COMMITTER_NAME: "a",
      GIT_COMMITTER_EMAIL: "a@b",
    };
    return spawnSync(process.execPath, ["scripts/release.mjs", ...args], { cwd: folder, encoding: "utf8", env });
  }
  const json = (path: string): Record<string, unknown> =>
    JSON.parse(readFileSync(join(folder, path), "utf8")) as Record<string, unknown>;

  it("does every step in a dry run, and leaves the repository as it was", () => {
    const { status, stdout, stderr } = release("minor", "--dry-run", "--libtorch", "a", "--libtorch", "b");
    expect(status, stderr).to.equal(1);
    expect(stderr).to.equal("changelog: CHANGELOG.md has no section ## [0.2.0].\n");
    expect(stdout).to.contain("0.1.0 -> 0.2.0");
    appendFileSync(join(folder, "CHANGELOG.md"), "\n## [0.2.0] - 2026-02-28\n\n### Fixed\n\n- A bug.\n");
    commit();
    const again = release("minor", "--dry-run", "--libtorch", "a", "--libtorch", "b", "--licences", "wheel.whl");
    expect(again.status, again.stderr).to.equal(0);
    expect(
      readFileSync(join(folder, "calls"), "utf8")
        .trim()
        .split("\n")
        .filter((line) => !line.endsWith("build:ts")),
    ).to.deep.equal([
      "prebuild.mjs --libtorch a",
      "prebuild.mjs --libtorch b",
      "npm typecheck",
      "npm lint",
      "npm docs",
      "npm test",
      "build-platform-package.mjs --version 0.2.0 --out release --licences wheel.whl",
      "check-package.mjs",
      "check-tarballs.mjs memformer-0.2.0.tgz memformer-libtorch-cpu-linux-x64-0.2.0.tgz",
      "publish.mjs --dry-run memformer-libtorch-cpu-linux-x64-0.2.0.tgz memformer-0.2.0.tgz",
    ]);
    expect(again.stdout).to.contain("in a real run: commit and tag v0.2.0");
    expect([git("status", "--porcelain"), git("tag"), json("package.json")["version"]]).to.deep.equal([
      "",
      "",
      "0.1.0",
    ]);
    const names = execFileSync("tar", ["-tzf", join(folder, "out/release/memformer-0.2.0.tgz")], { encoding: "utf8" })
      .trim()
      .split("\n");
    expect(names.sort()).to.deep.equal(["package/dist/index.js", "package/package.json"]);
    // What would be published asks for exactly its own version of the platform package.
    const packed = execFileSync(
      "tar",
      ["-xOzf", join(folder, "out/release/memformer-0.2.0.tgz"), "package/package.json"],
      { encoding: "utf8" },
    );
    expect(JSON.parse(packed)).to.deep.include({
      version: "0.2.0",
      optionalDependencies: { "@memformer/libtorch-cpu-linux-x64": "0.2.0" },
    });
  });

  it("writes the version everywhere, commits and tags, and publishes nothing unasked", () => {
    appendFileSync(join(folder, "CHANGELOG.md"), "\n## [0.1.1] - 2026-02-28\n\n- A bug.\n");
    commit();
    const { status, stderr } = release("patch", "--libtorch", "a");
    expect(status, stderr).to.equal(0);
    const lock = json("package-lock.json") as { version: string; packages: Record<string, { version: string }> };
    const versions = [
      json("package.json")["version"],
      json(`${platform}/package.json`)["version"],
      lock.version,
      lock.packages[""]!.version,
    ];
    expect(versions).to.deep.equal(["0.1.1", "0.1.1", "0.1.1", "0.1.1"]);
    expect([git("status", "--porcelain"), git("log", "-1", "--format=%s"), git("describe")]).to.deep.equal([
      "",
      "Release 0.1.1",
      "v0.1.1",
    ]);
    expect(readFileSync(join(folder, "calls"), "utf8").match(/^publish.mjs.*/m)![0]).to.match(
      /^publish\.mjs --dry-run /,
    );
    // The same again, as a server does on the tag: everything but tag and version, which are there.
    const again = release("0.1.1", "--prebuilt");
    expect(again.status, again.stderr).to.equal(0);
    expect(again.stdout).to.contain("v0.1.1 is there");
  });

  const refusals: [what: string, prepare: () => void, args: string[], sentence: string][] = [
    [
      "changes in the tree",
      () => writeFiles(folder, { new: "" }),
      ["0.1.0"],
      "The tree has changes; a release is made of a commit.\n?? new\n",
    ],
    [
      "two versions",
      () => change(`${platform}/package.json`, "0.0.9"),
      ["0.1.0"],
      `package.json has 0.1.0, ${platform}/package.json 0.0.9: they have to be the same.\n`,
    ],
    ["an older version", () => undefined, ["0.0.9"], "0.0.9 is older than 0.1.0, which package.json has.\n"],
    [
      "no version",
      () => undefined,
      [],
      "Say which version: node scripts/release.mjs X.Y.Z, or major, minor or patch.\n",
    ],
    [
      "a version that is none",
      () => undefined,
      ["1.x"],
      '"1.x" is no version: expected X.Y.Z, or major, minor or patch.\n',
    ],
    [
      "a tag on another commit",
      () => {
        git("tag", "v0.1.0", "-m", "x");
        writeFiles(folder, { new: "" });
        commit();
      },
      ["0.1.0"],
      "v0.1.0 is there already, on",
    ],
    [
      "a section without date",
      () => change("CHANGELOG.md", "# C\n\n## [0.1.0]\n\n- x\n"),
      ["0.1.0"],
      'changelog: CHANGELOG.md: expected "## [0.1.0] - YYYY-MM-DD", got "## [0.1.0]".\n',
    ],
    [
      "an empty section",
      () => change("CHANGELOG.md", "## [0.1.0] - 2026-01-31\n\n### Added\n\n## [0.0.1] - 2026-01-01\n\n- x\n"),
      ["0.1.0"],
      "changelog: CHANGELOG.md: the section of 0.1.0 lists nothing.\n",
    ],
    [
      "an unknown kind",
      () => change("CHANGELOG.md", "## [0.1.0] - 2026-01-31\n\n### News\n\n- x\n"),
      ["0.1.0"],
      'changelog: CHANGELOG.md: "### News" is none of Added, Changed, Deprecated, Removed, Fixed, Security.\n',
    ],
    [
      "no binaries",
      () => undefined,
      ["0.1.0", "--prebuilt"],
      "There are no binaries under variants/ and prebuilds/.\n",
    ],
    [
      "both --publish and --dry-run",
      () => undefined,
      ["0.1.0", "--publish", "--dry-run"],
      "--publish and --dry-run exclude each other.\n",
    ],
    [
      "publication of a build that is not portable",
      () => undefined,
      ["0.1.0", "--publish", "--environment", "debian-12"],
      "What is published has to be built in manylinux_2_28.\n",
    ],
  ];

  /** Replaces a file's content, or the version in a manifest, and commits. */
  function change(path: string, content: string): void {
    writeFiles(folder, {
      [path]: path.endsWith(".json") ? JSON.stringify({ ...json(path), version: content }) : content,
    });
    commit();
  }

  for (const [what, prepare, args, sentence] of refusals) {
    it(`refuses ${what}`, () => {
      prepare();
      const { status, stderr } = release(...args);
      expect([status, stderr.slice(0, sentence.length)]).to.deep.equal([1, sentence]);
      expect(existsSync(join(folder, "out"))).to.equal(false);
    });
  }

  it("stops at binaries over a limit, and at a check that fails", () => {
    execFileSync("cc", [
      "-shared",
      "-fPIC",
      "-nostdlib",
      "-Wl,-rpath,/opt/b",
      join(folder, "source.c"),
      "-o",
      join(folder, "binary"),
    ]);
    commit();
    const over = release("0.1.0", "--libtorch", "a");
    expect([over.status, over.stderr]).to.deep.equal([1, "Binaries are over the limits of manylinux_2_28.\n"]);
    expect(over.stdout).to.contain("OVER    has /opt/b in its R");
    execFileSync("cc", ["-shared", "-fPIC", "-nostdlib", join(folder, "source.c"), "-o", join(folder, "binary")]);
    commit();
    failing = "lint";
    const unclean = release("0.1.0", "--libtorch", "a");
    expect([unclean.status, unclean.stderr]).to.deep.equal([1, "checks: Command failed: npm run --silent lint\n"]);
    expect(git("tag")).to.equal("");
  });

  it("publishes what is asked for first, and nothing that is there already", () => {
    const files = { main: join(folder, "a-main.tgz"), platform: join(folder, "z-platform.tgz") };
    const pack = (file: string, manifest: object): void => {
      writeFiles(folder, { "package/package.json": JSON.stringify(manifest) });
      execFileSync("tar", ["-czf", file, "-C", folder, "package"]);
    };
    pack(files.main, { name: "m", version: "1.0.0", optionalDependencies: { p: "1.0.0" } });
    pack(files.platform, { name: "p", version: "1.0.0" });
    const registry =
      '#!/bin/sh\nif [ "$1" = view ]; then [ "$2" = "$THERE" ] && echo 1.0.0; exit 0; fi\necho "$@" >> published\n';
    writeFiles(folder, { "bin/npm": registry });
    const publish = (there: string, github: string, ...args: string[]): string => {
      const env = {
        ...process.env,
        PATH: `${join(folder, "bin")}:${process.env["PATH"]}`,
        THERE: there,
        GITHUB_ACTIONS: github,
      };
      rmSync(join(folder, "published"), { force: true });
      const run = spawnSync(process.execPath, [join(repository, "scripts/publish.mjs"), ...args], {
        cwd: folder,
        encoding: "utf8",
        env,
      });
      return existsSync(join(folder, "published"))
        ? readFileSync(join(folder, "published"), "utf8")
        : run.stdout + run.stderr;
    };
    const line = (file: string): string => `publish ${file} --access public`;
    expect(publish("", "", files.main, files.platform)).to.equal(`${line(files.platform)}\n${line(files.main)}\n`);
    expect(publish("p@1.0.0", "true", files.platform, files.main)).to.equal(`${line(files.main)} --provenance\n`);
    expect(publish("", "", "--dry-run", files.main, files.platform)).to.equal(
      `not published: npm ${line(files.platform)}\nnot published: npm ${line(files.main)}\n`,
    );
    pack(files.platform, { name: "p", version: "1.0.1" });
    expect(publish("", "", files.main, files.platform)).to.equal("m 1.0.0 asks for p 1.0.0, not 1.0.1.\n");
  });

  it("has the section of the version that package.json has, and one version for both packages", () => {
    const version = (JSON.parse(readFileSync(join(repository, "package.json"), "utf8")) as { version: string }).version;
    const other = (JSON.parse(readFileSync(join(repository, platform, "package.json"), "utf8")) as { version: string })
      .version;
    expect(other).to.equal(version);
    const program = `import { releaseNotes } from ${JSON.stringify(join(repository, "scripts/changelog.mjs"))}; console.log(releaseNotes(${JSON.stringify(repository)}, "${version}"));`;
    expect(execFileSync(process.execPath, ["--input-type=module", "-e", program], { encoding: "utf8" })).to.match(
      /^- /m,
    );
  });
});
