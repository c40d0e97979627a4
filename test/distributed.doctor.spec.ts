import { expect } from "chai";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { meetingRows } from "../lib/distributed/doctor.ts";
import { interfacesHere, interfacesOfNccl } from "../lib/distributed/interfaces.ts";
import { freePort } from "../lib/distributed/launch.ts";
import { ncclVersion } from "../lib/distributed/nccl-version.ts";
import type { Row } from "../lib/native/doctor.ts";
import { ranksEnvironment } from "./support/ranks.ts";
import { Bench } from "./support/run-cli.ts";
import { temporary } from "./support/runs.ts";

const loopback = interfacesHere().find((one) => one.loopback)!.name;

describe("memformer doctor --distributed", function () {
  this.timeout(120_000);

  async function rows(env: NodeJS.ProcessEnv): Promise<Record<string, Row>> {
    return Object.fromEntries((await meetingRows(env)).rows.map((row) => [row.name, row]));
  }

  it("ends well where nothing is amiss, after a sum of two processes", async () => {
    const bench = new Bench();
    try {
      const { code, stdout, stderr } = await bench.run("doctor", "--distributed", "--json");
      expect(code, stdout + stderr).to.equal(0);
      const { rows: found } = JSON.parse(stdout) as { rows: Row[] };
      const trip = found.find(({ name }) => name === "gloo round trip");
      expect(trip?.found).to.match(/^two processes here summed a number over 127\.0\.0\.1 in [\d.]+ s$/);
      for (const name of ["ranks", "rendezvous", "port", "gloo interface"])
        expect(found.find((row) => row.name === name)?.ok, name).to.equal(true);
    } finally {
      bench.remove();
    }
  });

  it("says of the port whether rank 0 may have it, and whether the others reach it", async () => {
    const server = createServer();
    server.listen(0);
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    const [first, second] = [await rows(ranksEnvironment(0, 2, port)), await rows(ranksEnvironment(1, 2, port))];
    server.close();
    expect(first["port"]).to.deep.include({ ok: false, required: true, found: `MASTER_PORT ${port} is in use here` });
    expect(second["port"]).to.deep.include({ ok: true, found: `something answers at 127.0.0.1:${port}` });
    const alone = await rows(ranksEnvironment(1, 2, await freePort()));
    expect(alone["port"]).to.deep.include({ ok: false, required: false, remedy: "start rank 0, and look again" });
    expect(alone["ranks"]!.found).to.equal("rank 1 of 2, 1 of its host, one host");
  });

  const own = ranksEnvironment(0, 4, 29500);
  const faults: readonly (readonly [string, NodeJS.ProcessEnv, string, RegExp])[] = [
    [
      "a name that does not resolve",
      { MASTER_ADDR: "node0.invalid" },
      "rendezvous",
      /^MASTER_ADDR node0\.invalid does not/,
    ],
    [
      "a loopback for several hosts",
      { LOCAL_WORLD_SIZE: "2" },
      "rendezvous",
      /^MASTER_ADDR is 127\.0\.0\.1 here: this host/,
    ],
    [
      "its name for a loopback, under Slurm",
      { SLURM_NNODES: "2", MASTER_ADDR: "localhost" },
      "rendezvous",
      /localhost, which is/,
    ],
    [
      "rank 0 elsewhere",
      { MASTER_ADDR: "198.51.100.7" },
      "rendezvous",
      /not an address of this host|there is no route to/,
    ],
    [
      "an interface that is not there",
      { GLOO_SOCKET_IFNAME: "eth7" },
      "gloo interface",
      /^GLOO_SOCKET_IFNAME is eth7, which is not up/,
    ],
    ["Gloo on the loopback", { LOCAL_WORLD_SIZE: "2" }, "gloo interface", /: other hosts do not reach it$/],
    ["a rank that is no number", { RANK: "one" }, "ranks", /RANK must be a whole number, got "one"/],
  ];
  for (const [what, env, name, sentence] of faults)
    it(`finds ${what}, and says what to do`, async () => {
      const row = (await rows({ ...own, ...env }))[name]!;
      expect(row.found).to.match(sentence);
      expect(row).to.deep.include({ ok: false, required: true });
      expect(row.remedy).to.be.a("string");
    });

  it("takes the interface that is asked for", async () => {
    const row = (await rows({ ...own, GLOO_SOCKET_IFNAME: loopback }))["gloo interface"]!;
    expect(row.ok).to.equal(true);
    expect(row.found).to.include(`${loopback} (`).and.include("by GLOO_SOCKET_IFNAME");
  });
});

describe("NCCL's interfaces", () => {
  const here = ["lo", "docker0", "eth0", "eth1"];
  for (const [asked, among, expected] of [
    [undefined, here, ["eth0", "eth1"]],
    [undefined, [...here, "ib0"], ["ib0"]],
    [undefined, ["lo", "docker0"], ["docker0"]],
    [undefined, ["lo"], ["lo"]],
    ["eth", here, ["eth0", "eth1"]],
    ["=eth1", here, ["eth1"]],
    ["^docker,lo", here, ["eth0", "eth1"]],
    ["^=eth0", here, ["lo", "docker0", "eth1"]],
    ["ens", here, []],
  ] as const)
    it(`of ${among.join(", ")} are ${expected.join(", ") || "none"} by ${asked ?? "default"}`, () => {
      expect(interfacesOfNccl(among, asked)).to.deep.equal(expected);
    });
});

describe("NCCL's version", () => {
  it("is read from the library, in LibTorch or in pip's package beside it", async () => {
    const folder = await temporary();
    try {
      const root = join(folder.path, "torch"),
        lib = join(folder.path, "nvidia", "nccl", "lib");
      await mkdir(join(root, "lib"), { recursive: true });
      expect(await ncclVersion(root)).to.equal(undefined);
      await mkdir(lib, { recursive: true });
      const file = join(lib, "libnccl.so.2");
      await writeFile(
        file,
        Buffer.concat([Buffer.alloc((1 << 22) - 20), Buffer.from("NCCL version 2.30.7+cuda13.3\0NCCL")]),
      );
      expect(await ncclVersion(root)).to.deep.equal({ version: "2.30.7+cuda13.3", file });
    } finally {
      await folder.remove();
    }
  });
});
