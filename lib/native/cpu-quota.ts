/**
 * How much CPU time the control groups of this process grant it: a container limited to two CPUs of a machine of
 * sixty-four still sees all sixty-four, and as many threads would wait for one another most of the time.
 */
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, posix } from "node:path";

/**
 * CPUs' worth of time, of cgroup v2's `cpu.max` or v1's `cpu.cfs_quota_us`; undefined without a limit. `root`: where
 * /proc and /sys are.
 */
export function cpuQuota(root = "/"): number | undefined {
  const limits: number[] = [];
  for (const line of text(root, "proc/self/cgroup").split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    // A group is bound by those above it too. Inside a container its own group is often mounted as the uppermost.
    for (let group = posix.normalize(path); ; group = posix.dirname(group)) {
      if (controllers === "") limits.push(quotaV2(text(root, "sys/fs/cgroup", group, "cpu.max")));
      else if (controllers.split(",").includes("cpu")) limits.push(...quotasV1(root, controllers, group));
      if (group === "/" || group === ".") break;
    }
  }
  const least = Math.min(Infinity, ...limits);
  return Number.isFinite(least) ? least : undefined;
}

/**
 * Threads that a quota keeps busy: its whole CPUs, at least 1. Undefined where it grants all that there are, or is
 * none.
 */
export function threadsOfQuota(root = "/", cores = availableParallelism()): number | undefined {
  const quota = cpuQuota(root);
  if (quota === undefined || quota >= cores) return undefined;
  return Math.max(1, Math.floor(quota));
}

/** `max 100000` or `200000 100000`: microseconds of CPU time in a period of so many. */
function quotaV2(limit: string): number {
  const [, quota, period] = /^(\d+) (\d+)/.exec(limit) ?? [];
  return share(Number(quota), Number(period));
}

function quotasV1(root: string, controllers: string, group: string): number[] {
  return [...new Set([controllers, "cpu", "cpu,cpuacct", "cpuacct,cpu"])].map((mounted) => {
    const of = (name: string): number => Number(text(root, "sys/fs/cgroup", mounted, group, name) || NaN);
    return share(of("cpu.cfs_quota_us"), of("cpu.cfs_period_us"));
  });
}

/** Infinity where there is no limit: a file is not there, or its quota is -1. */
function share(quota: number, period: number): number {
  return quota > 0 && period > 0 ? quota / period : Infinity;
}

function text(...path: string[]): string {
  try {
    return readFileSync(join(...path), "utf8");
  } catch {
    return "";
  }
}
