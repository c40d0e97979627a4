import { expect } from "chai";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { cpuQuota, threadsOfQuota } from "../lib/native/cpu-quota.ts";

describe("the CPU quota of a control group", () => {
  const roots: string[] = [];
  after(async () => Promise.all(roots.map(async (root) => rm(root, { recursive: true }))));

  async function machine(files: Readonly<Record<string, string>>): Promise<string> {
    const root = await mkdtemp(join(tmpdir(), "memformer-cgroup-"));
    roots.push(root);
    for (const [path, text] of Object.entries(files)) {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await writeFile(join(root, path), text);
    }
    return root;
  }

  it("is read from cgroup v2, of the group and of those above it", async () => {
    const group = { "proc/self/cgroup": "0::/machine/job\n" };
    expect(cpuQuota(await machine({ ...group, "sys/fs/cgroup/machine/job/cpu.max": "250000 100000\n" }))).to.equal(2.5);
    expect(
      cpuQuota(
        await machine({
          ...group,
          "sys/fs/cgroup/machine/cpu.max": "150000 50000\n",
          "sys/fs/cgroup/machine/job/cpu.max": "max 100000\n",
        }),
      ),
    ).to.equal(3);
    // A container that sees its own group as the uppermost.
    expect(
      cpuQuota(await machine({ "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000\n" })),
    ).to.equal(4);
    expect(cpuQuota(await machine({ ...group, "sys/fs/cgroup/cpu.max": "400000 100000\n" }))).to.equal(4);
  });

  it("is read from cgroup v1, wherever its controller is mounted", async () => {
    const groups = "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n";
    for (const folder of ["cpu,cpuacct/docker/abc", "cpu,cpuacct", "cpu/docker/abc", "cpu"]) {
      const root = await machine({
        "proc/self/cgroup": groups,
        [`sys/fs/cgroup/${folder}/cpu.cfs_quota_us`]: "150000\n",
        [`sys/fs/cgroup/${folder}/cpu.cfs_period_us`]: "100000\n",
      });
      expect(cpuQuota(root), folder).to.equal(1.5);
    }
  });

  it("is none where nothing limits, or nothing can be read", async () => {
    const unlimited: Record<string, string>[] = [
      {},
      { "proc/self/cgroup": "nonsense\n" },
      { "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n" },
      {
        "proc/self/cgroup": "2:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
      },
    ];
    for (const files of unlimited) expect(cpuQuota(await machine(files))).to.equal(undefined);
  });

  it("gives as many threads as it has whole CPUs, at least one, and none where there are as few cores", async () => {
    const threads = async (limit: string, cores: number): Promise<number | undefined> =>
      threadsOfQuota(await machine({ "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": limit }), cores);
    expect(await threads("200000 100000", 64)).to.equal(2);
    expect(await threads("250000 100000", 64)).to.equal(2);
    expect(await threads("50000 100000", 64)).to.equal(1);
    expect(await threads("400000 100000", 4)).to.equal(undefined);
    expect(await threads("max 100000", 4)).to.equal(undefined);
  });
});
