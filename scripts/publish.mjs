/**
 * Publishes the tarballs of a release:  node scripts/publish.mjs [--dry-run] TARBALL...
 * What another one asks for goes first. What the registry has already, from a run that broke off, is left out. On
 * GitHub each gets its provenance. --dry-run prints the lines and runs none.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { parseArgs } from "node:util";
import { fail, main } from "./dist.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { "dry-run": { type: "boolean", default: false } },
});

await main(() => {
  if (positionals.length === 0) fail("Name the tarballs to publish.");
  const packages = positionals.map((tarball) => {
    const manifest = JSON.parse(execFileSync("tar", ["-xOzf", tarball, "package/package.json"], { encoding: "utf8" }));
    return { tarball, ...manifest };
  });
  for (const { name, version, optionalDependencies = {} } of packages) {
    const apart = packages.find((other) => (optionalDependencies[other.name] ?? other.version) !== other.version);
    if (apart !== undefined)
      fail(`${name} ${version} asks for ${apart.name} ${optionalDependencies[apart.name]}, not ${apart.version}.`);
  }
  const asksFor = ({ optionalDependencies = {} }, { name }) => name in optionalDependencies;
  packages.sort((a, b) => Number(asksFor(a, b)) - Number(asksFor(b, a)));
  for (const { name, version, tarball } of packages) {
    const args = [
      "publish",
      tarball,
      "--access",
      "public",
      ...(process.env.GITHUB_ACTIONS === "true" ? ["--provenance"] : []),
    ];
    if (values["dry-run"]) console.log(`not published: npm ${args.join(" ")}`);
    else if (isPublished(name, version)) console.log(`${name} ${version} is there`);
    else execFileSync("npm", args, { stdio: "inherit" });
  }
});

function isPublished(name, version) {
  return spawnSync("npm", ["view", `${name}@${version}`, "version"], { encoding: "utf8" }).stdout.trim() === version;
}
